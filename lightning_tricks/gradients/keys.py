"""The log keys of gradient monitoring and clipping."""

from __future__ import annotations

from lightning_tricks.publishing.log_keys import EventKind, LogKey

_S = "gradients"
MONITOR = (
    LogKey("grad/norm_log10", "log10 of the global norm", (_S, "global norm, log10"), optimizers=True),
    LogKey("grad/norm", "global norm of the gradients, before clipping", optimizers=True),
    LogKey("grad/norm/<parameter...>", "norm of the gradient of a parameter", (_S, "norm of each parameter")),
    LogKey("grad/group/<name...>", "norm over a group of parameters", (_S, "norm of each group")),
    LogKey("grad/update_ratio/<parameter...>", "norm of the update over norm of the weight", (_S, "update / weight")),
    LogKey(
        "grad/nonfinite",
        "attempts with a NaN or inf gradient since the last logged step",
        (_S, "NaN and inf; noise scale"),
        EventKind("non-finite", "above 0", "{value:.0f} attempts"),
        optimizers=True,
    ),
    LogKey("grad/noise_scale", "gradient noise scale, in samples", (_S, "NaN and inf; noise scale"), optimizers=True),
)
CLIP = (
    LogKey(
        "grad/clip_coefficient",
        "factor on the gradients, 1 for not clipped",
        (_S, "clipping"),
        EventKind("clip", "below 1", "to {value:.2f} of the norm"),
        optimizers=True,
    ),
    LogKey("grad/clipped_fraction", "share of updates that were clipped", (_S, "clipping"), optimizers=True),
)
