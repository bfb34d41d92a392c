"""Accumulation: several micro-batches make one update whose gradient is that of the one big batch. Acts on the loss."""
