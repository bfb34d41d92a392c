"""GenerationDrift: what a model generates, epoch by epoch, against real data."""

from __future__ import annotations

from typing import Any, final

from lightning_tricks.collapse.callbacks.generations_probe import GenerationsProbe
from lightning_tricks.collapse.keys import GENERATIONS
from lightning_tricks.collapse.reduction import require_name
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.errors import UnsupportedError, message, require_count
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form

_BEST = form.none_or(form.measured)


@final
class GenerationDrift(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
    """Follow what a model generates, generation by generation: is it losing what the real data have?

    For training on one's own output: one generation is ``every_n_epochs`` epochs of one fit, with a new data set each
    time (``Trainer(reload_dataloaders_every_n_epochs=...)``). The data of the first epoch are taken as real. Samples of
    numbers are compared by variance, tails and recall; tokens (whole numbers) by distinct 4-grams and repetition. The
    loss on real data is measured too, with the module's own ``training_step``. Alarm: the loss on real data is twice
    its best, diversity below 75 % of its best while the loss on real data is 5 % above its best (5 % of what was
    learnt, for a loss near or below 0), or half as many distinct 4-grams as in real data; two in a row, and not rising.

    Args:
        sample: a method of the LightningModule: ``sample(n)`` returns n generated samples ``[n, ...]``.
        num_samples: generated, and kept of the real data, >= 32.
        every_n_epochs: epochs in one generation.
        action: what to do about an alarm, as in ``RepresentationCollapse``.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, there is no such method, or what it returns is not a tensor of samples; at the first
            batch, no real samples of that size are in it.
        UnsupportedError: at fit start, ``"rollback"``: it acts between generations, whose data cannot be put back.
        AlarmError: while training, with ``action="raise"``.

    Logs:
        After each generation, ``collapse/generation_drift/`` with ``diversity``, ``real_loss``, ``real_loss_ratio``
        (over the best), ``alarm``; for numbers ``variance_ratio``, ``tail_mass`` (expect 0.1) and ``recall``; for
        tokens ``distinct_ratio``, ``repetition`` and ``real_repetition``. At an alarm a verdict and a figure.

    Changes:
        Nothing: sampling happens in a snapshot that puts everything back.

    State:
        The real samples, the batch for the loss on real data, and the baselines.

    Cost:
        After each generation the sampling, one forward pass, and some host reads. Nothing at a step.

    Example:
        >>> from lightning_tricks import GenerationDrift
        >>> GenerationDrift(num_samples=256).every_n_epochs
        1

    Reference: Shumailov et al., 2024, Nature 631; Gerstgrasser et al., 2024, arXiv:2404.01413; Welleck et al., 2019,
    arXiv:1908.04319.
    """

    log_keys = GENERATIONS
    identity = ("sample",)
    state_form = watch_form(
        real=form.none_or(form.tensor),
        batch=form.anything,
        best=form.list_of(_BEST, 2),
        optional={"first_loss": _BEST},
    )

    def __init__(
        self, sample: str = "sample", num_samples: int = 512, every_n_epochs: int = 1, action: Action = "warn"
    ) -> None:
        owner = "GenerationDrift"
        self.sample = require_name(owner, "sample", sample)
        self.num_samples = require_count(owner, "num_samples", num_samples, low=32, remedy="Use e.g. 512")
        self.every_n_epochs = require_count(owner, "every_n_epochs", every_n_epochs, remedy="Use e.g. 1")
        self.take(WatchSettings.checked(owner, 1, action, 2, 0))
        if not isinstance(self.action, str) and not callable(self.action):
            text = "generations cannot be put back"
            raise UnsupportedError(message(owner, "action", action, text, "Use 'stop', 'warn' or 'raise'"))
        self._reset()

    def _make_parts(self) -> tuple[Stages, ...]:
        """A watch, and the part that lets it look between epochs."""
        probe = GenerationsProbe(self.sample, self.num_samples)
        watch = Watch(self, probe, self.settings)
        return (watch, _Generations(watch, probe, self.every_n_epochs))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at a generation."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.live_run is not None:
            generations = self.parts[1]
            assert isinstance(generations, _Generations)
            generations.epoch_ends(self.live_run)


class _Generations(Stages):
    """Keeps the real data of the first epoch, and looks after each generation."""

    def __init__(self, watch: Watch, probe: GenerationsProbe, every_n_epochs: int) -> None:
        self._watch, self._probe, self._every_n_epochs = watch, probe, every_n_epochs

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Generate two samples, to see what they are."""
        self._probe.look_at_samples(run)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep real samples, and the first batch."""
        if self._watch.trick.live_run is not None and trainer.current_epoch == 0:
            self._probe.keep_real(batch, automatic=pl_module.automatic_optimization)

    def epoch_ends(self, run: TrainingRun) -> None:
        """Look at a generation, judge it, and act on that at once."""
        if self._probe.real is None or (run.trainer.current_epoch + 1) % self._every_n_epochs:
            return
        self._watch.hear(run, run.step, 1.0, self._probe.look(run))
        self._watch.response.act(run, self._watch.judge.healthy)
