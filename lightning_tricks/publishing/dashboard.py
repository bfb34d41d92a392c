"""What TensorBoard shows beside curves: the charts that this run fills, and the hyperparameters of its page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_tricks.numerics.torch_internals import file_writer
from lightning_tricks.publishing.log_keys import LogKeys, is_own_loss

Layout = dict[str, dict[str, list[object]]]


def filled_layout(keys: LogKeys, logged: Iterable[str], of_the_user: Iterable[str]) -> Layout:
    """Return the layout of the Custom Scalars page: the user's losses first, then our charts that have a value.

    Args:
        keys: declarations of the callbacks in the run.
        logged: our keys that have had a value so far.
        of_the_user: keys that the training script logs.

    Example:
        >>> from lightning_tricks.gradients.keys import CLIP
        >>> filled_layout(LogKeys(CLIP), ["grad/clip_coefficient"], ["train/loss", "lr"])["training"]
        {'loss': ['Multiline', ['train/loss$']]}
    """
    losses = sorted(key for key in of_the_user if is_own_loss(key))
    first: Layout = {}
    if losses:
        first = {"training": {"loss": ["Multiline", [LogKeys.exactly(key) for key in losses]]}}
    return first | keys.layout(logged)


def write_hyperparameters(experiment: Any, configuration: Mapping[str, Any]) -> None:
    """Write what TensorBoard's HParams page shows.

    The page shows a run only if its hyperparameters name a metric. It is ``hp_metric``, which Lightning leaves to the
    user (``self.log("hp_metric", ...)``); no value is written for it.
    """
    # (imported where a TensorBoard logger is in use: the package is optional)
    from torch.utils.tensorboard.summary import hparams

    plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in configuration.items()}
    # ``SummaryWriter.add_hparams`` would open a second run in a folder of its own; the summaries go into this run's
    # file.
    for summary in hparams(plain, {"hp_metric": 0}):  # type: ignore[no-untyped-call]
        file_writer(experiment).add_summary(summary)
