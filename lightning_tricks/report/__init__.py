"""What happened in a run: a page from its logs, and numbers in the progress bar."""
