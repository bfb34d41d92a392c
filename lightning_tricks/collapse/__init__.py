"""Collapse: outputs that have become all the same. Representations, predictions, generations; acts after the step."""
