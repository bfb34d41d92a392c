"""Gradients: norms, clipping, non-finite values, noise scale. Acts between backward and the optimizer's step."""
