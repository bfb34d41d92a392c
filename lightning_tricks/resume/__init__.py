"""Checkpoints that survive a kill, and what would break a resume, said before training."""
