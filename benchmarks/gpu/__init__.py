"""``python -m benchmarks gpu``: everything that a box with one GPU can say, in nine minutes."""
