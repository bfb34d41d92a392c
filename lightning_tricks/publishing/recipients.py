"""The loggers of a Trainer as recipients: whatever one of them does, the others get theirs and training goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_tricks.numerics.torch_internals import file_writer
from lightning_tricks.publishing.log_keys import LogKeys, is_own_loss
from lightning_tricks.publishing.loggers import guard, system_error
from lightning_tricks.publishing.tracker_ways import Kind, offered
from lightning_tricks.publishing.trackers import hand_over, is_of_another_rank, key_for, way_of


class Recipients:
    """Hands values, texts, tables and pictures to every logger, and remembers which of them have failed.

    A logger that failed by the system's fault (no space, no network) is tried again; one that failed at writing values
    for another reason gets no more. Either is told once.

    Args:
        loggers: gives the Trainer's loggers; asked at each delivery, since users may change the list.
    """

    def __init__(self, loggers: Callable[[], Sequence[Any]]) -> None:
        self._loggers = loggers
        self._broken: set[int] = set()  # by identity: loggers need not be hashable
        self._failing: set[int] = set()
        self._told_where: set[int] = set()

    def introduce(self, configuration: Mapping[str, Any]) -> None:
        """A run begins: give the loggers the configuration.

        TensorBoard shows the first hyperparameters of a run only, so these have to hold the module's own too.
        """
        for logger in self._loggers():
            try:
                if _can(logger, "add_hparams"):
                    logger.log_hyperparams(dict(configuration), {})  # for its hparams.yaml alone
                    write_hyperparameters(logger.experiment, configuration)
                else:
                    logger.log_hyperparams(dict(configuration))
            except Exception as error:  # whatever a logger does, training goes on
                self._note_failure(logger, error, 0, lasting=False)  # (MLflow's refuses an argument that has changed)

    def guard(self) -> None:
        """Training begins: from now on no logger's system error may end it, not even in Lightning's own calls."""
        for logger in self._loggers():
            guard(logger, partial(self._note_failure, logger))

    def give(self, kind: Kind, step: int, name: str, content: Callable[[], Any]) -> None:
        """Hand over text, a table or a figure; it is kept on disk where a logger takes none.

        Args:
            content: makes it; not called where no logger needs it. Nothing happens where it lacks matplotlib.
        """
        for logger in self._working():
            if is_of_another_rank(logger):
                continue
            try:
                with suppress(ImportError):  # of matplotlib
                    self._tell_where(logger, hand_over(logger, kind, name, content, step))
            except Exception as error:  # whatever a logger does, training goes on
                self._note_failure(logger, error, step, lasting=False)

    def log(self, values: Mapping[str, float], samples: Mapping[str, Sequence[float]], step: int) -> None:
        """Hand over the values of a step, and samples of histograms."""
        for logger in self._working():
            try:
                if values:
                    logger.log_metrics({key_for(logger, key): value for key, value in values.items()}, step=step)
                for name, sample in samples.items():
                    hand_over(logger, "histogram", name, partial(list, sample), step)
            except Exception as error:  # whatever a logger does, training goes on
                self._note_failure(logger, error, step)

    def lay_out(self, layout: Mapping[str, Any], step: int) -> None:
        """Write the layout of TensorBoard's dashboard."""
        for logger in self._working():
            if _can(logger, "add_custom_scalars"):
                try:
                    logger.experiment.add_custom_scalars(layout)
                except Exception as error:  # whatever a logger does, training goes on
                    self._note_failure(logger, error, step, lasting=False)

    def _working(self) -> list[Any]:
        return [logger for logger in self._loggers() if id(logger) not in self._broken]

    def _tell_where(self, logger: Any, taken: Path | bool) -> None:
        """Tell once per logger where that is which it does not take."""
        if isinstance(taken, Path) and id(logger) not in self._told_where:
            self._told_where.add(id(logger))
            name = type(logger).__name__
            rank_zero_info(f"{name} does not take every text, table and picture. They are written into {taken}.")

    def _note_failure(self, logger: Any, error: Exception, step: int | None, *, lasting: bool = True) -> None:
        """Tell it once. What failed by the system's fault (no space, no network) is tried again; all else is not.

        Args:
            step: at which; None where it is not known.
            lasting: whether a logger that failed so gets no more values.
        """
        told = id(logger) in self._failing
        self._failing.add(id(logger))
        consequence = "Each value is tried, and may be lost"
        if lasting and system_error(error) is None:
            self._broken.add(id(logger))
            consequence = "lightning_tricks logs no more to it"
        if not told:
            where = "" if step is None else f" at step {step}"
            warnings.warn(
                f"{type(logger).__name__} failed{where} ({type(error).__name__}: {error}). "
                f"{consequence}; training goes on.",
                RuntimeWarning,
                stacklevel=3,
            )


def draws_histograms(logger: Any) -> bool:
    """Whether a logger takes histograms, told by what it offers."""
    return way_of(logger, "histogram") is not None


def _can(logger: Any, method: str) -> bool:
    """Whether a logger's experiment has a method. On ranks that do not log, Lightning's stand-in has all of them."""
    return not is_of_another_rank(logger) and offered(logger, f"experiment.{method}") is not None


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
