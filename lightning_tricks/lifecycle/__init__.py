"""What all callbacks of one Trainer share: base class, run, and the dispatch of Lightning's hooks."""
