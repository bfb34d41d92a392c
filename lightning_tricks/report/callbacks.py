"""ProgressMetrics: what the tricks measure, in the Trainer's progress bar."""

from __future__ import annotations

from typing import final

from lightning_tricks.errors import is_list, message
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick

_USUAL = ("grad/norm", "schedule/lr", "amp/scale")


@final
class ProgressMetrics(Trick):
    """Show what other tricks measure in the progress bar, Rich's or tqdm's: gradient norm, learning rate, loss scale.

    Args:
        keys: log keys to show; None for ``grad/norm``, ``schedule/lr`` and ``amp/scale``. A key that no trick logs in
            this run is not shown.

    Raises:
        TypeError: ``keys`` is not a list of strings.
        ValueError: ``keys`` is empty.

    Logs:
        The latest value of each key at every batch, to the progress bar alone (``prog_bar=True, logger=False``), so
        also to ``trainer.callback_metrics``: as old as the last logged step.

    Changes:
        Nothing: the weights are bit-identical to those of a run without it.

    State:
        None.

    Cost:
        A call of Lightning's ``log`` per key and batch; no host read, since the values are on the host already.

    Example:
        >>> from lightning_tricks import ProgressMetrics
        >>> ProgressMetrics(["grad/norm", "collapse/dead_units/alarm"]).keys
        ['grad/norm', 'collapse/dead_units/alarm']

    Reference: Lightning's documentation of ``LightningModule.log``.
    """

    observer = True

    def __init__(self, keys: list[str] | None = None) -> None:
        if keys is not None:
            if not is_list(keys) or not all(isinstance(key, str) for key in keys):
                rule = "keys must be a list of log keys"
                raise TypeError(message("ProgressMetrics", "keys", keys, rule, "Use e.g. ['grad/norm', 'schedule/lr']"))
            if not keys:
                rule = "keys must name at least one"
                raise ValueError(message("ProgressMetrics", "keys", keys, rule, "Use None for the usual ones"))
        self.keys = None if keys is None else list(keys)

    def _transfer_started(self, run: TrainingRun) -> None:
        """Hand the latest values to the bar."""
        module = run.trainer.lightning_module
        for key in self.keys or _USUAL:
            if key in run.publisher.latest:
                value = run.publisher.latest[key]
                # (still inside ``on_train_batch_end``, where Lightning allows this; the loggers have the value already)
                module.log(key, value, prog_bar=True, logger=False, on_step=True, on_epoch=False, batch_size=1)
