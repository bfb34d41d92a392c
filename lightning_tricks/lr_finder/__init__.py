"""LR finder: try many learning rates before the first update, in a copy. Acts before training, and leaves no trace."""
