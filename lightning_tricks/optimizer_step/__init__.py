"""One attempt to update the weights: gradients, loss scale, step clock, requested rates and windows."""
