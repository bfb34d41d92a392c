"""Workloads: one file each, a function that returns a module and its batches."""
