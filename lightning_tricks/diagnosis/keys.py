"""The log keys of the doctors."""

from __future__ import annotations

from lightning_tricks.detection.keys import ROLLBACK, alarm_key
from lightning_tricks.publishing.log_keys import EventKind, LogKey

_S = "diagnosis"
_DOCTOR, _MEMORY = "diagnosis/training_doctor/", "diagnosis/memory_doctor/"
_FLOW, _USED, _GROWTH = "gradients from first to last layer", "memory in use (MB)", "memory: live tensors; growth"
_FINDING = EventKind("finding", "above 0", "{key}")
TRAINING_DOCTOR = (
    alarm_key("training_doctor", _S, "findings"),
    LogKey(_DOCTOR + "loss", "mean training loss since the last check", (_S, "loss")),
    LogKey(_DOCTOR + "fixed_batch_loss", "loss on the first batch, in eval mode", (_S, "loss")),
    LogKey(_DOCTOR + "first_gradient", "norm of the gradient of the first layer", (_S, _FLOW)),
    LogKey(_DOCTOR + "last_gradient", "norm of the gradient of the last layer", (_S, _FLOW)),
    LogKey(_DOCTOR + "update_ratio", "norm of update over weight, median of matrices", (_S, "update / weight")),
    LogKey(_DOCTOR + "waiting", "share of the time that waits for data", (_S, "waiting for data")),
    LogKey(_DOCTOR + "loss_std", "standard deviation of the training loss since the last check"),
    LogKey("error/<part>", "a part of the error of the finished training"),
    *ROLLBACK,
)
MEMORY_DOCTOR = (
    alarm_key("memory_doctor", _S, "findings"),
    LogKey(_MEMORY + "allocated", "megabytes on the device", (_S, _USED)),
    LogKey(_MEMORY + "resident", "megabytes of the process", (_S, _USED)),
    LogKey(_MEMORY + "live_tensors", "tensors that are alive", (_S, _GROWTH)),
    LogKey(_MEMORY + "growth_per_step", "kilobytes in an update", (_S, _GROWTH)),
    *ROLLBACK,
)
FINDINGS = (
    LogKey("diagnosis/<finding>", "1 where it was found, 0 where it was taken back", (_S, "findings"), _FINDING),
)
