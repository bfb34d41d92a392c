"""Arithmetic on tensors and numbers: norms, running statistics, durations, subsampling. Imports torch only."""
