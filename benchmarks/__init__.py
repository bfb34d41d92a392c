"""Benchmarks: one file per table. ``python -m benchmarks list`` says what there is."""
