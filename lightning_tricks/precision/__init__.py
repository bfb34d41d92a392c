"""Precision: what 16-bit arithmetic does to a run, seen, bounded and advised. Acts around the forward pass."""
