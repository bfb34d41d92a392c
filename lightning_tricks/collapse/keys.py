"""The log keys of the detectors of collapse."""

from __future__ import annotations

from lightning_tricks.detection.keys import detector_keys

REPRESENTATION = detector_keys("representation_collapse", "representation")
PREDICTION = detector_keys("prediction_collapse", "prediction")
MODES = detector_keys("mode_collapse", "modes")
DEAD_UNITS = detector_keys("dead_units", "dead units")
USAGE = detector_keys("usage_collapse", "usage of entries")
POSTERIOR = detector_keys("posterior_collapse", "posterior")
GENERATIONS = detector_keys("generation_drift", "generations")
