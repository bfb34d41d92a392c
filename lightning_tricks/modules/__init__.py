"""What a module and its batches offer: names, selection, hooks, labels, sample counts. No Lightning."""
