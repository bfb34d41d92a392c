"""Dry runs: user code that runs a second time, inside a snapshot that puts everything back."""
