"""The log keys of mixed precision."""

from __future__ import annotations

from lightning_tricks.publishing.log_keys import EventKind, LogKey

_S = "precision"
LOSS_SCALE = (
    LogKey("amp/scale", "loss scale in use", (_S, "loss scale")),
    LogKey(
        "amp/skipped_steps",
        "attempts that were no updates, since the start",
        (_S, "skipped updates"),
        EventKind("skip", "grows", "{increase:.0f} updates"),
        optimizers=True,
    ),
)
DOCTOR = (
    LogKey("amp/headroom", "headroom of the module that has the least, in bits", (_S, "headroom")),
    LogKey("amp/underflow", "share of small gradients in the module that has the most", (_S, "underflow")),
    LogKey("amp/headroom/<module...>", "log2 of 65504 over the largest output, in bits", (_S, "headroom by module")),
    LogKey("amp/underflow/<module...>", "share of gradients below 2^-14, scaled", (_S, "underflow by module")),
)
