"""PosteriorCollapse: latent variables of a variational autoencoder that carry nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from lightning_tricks.collapse import figures, latent_causes, posterior, reduction, sums
from lightning_tricks.collapse.keys import POSTERIOR
from lightning_tricks.collapse.reduction import over_all, require_name
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.errors import TrickError, message
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics.subset import subset

_CLEARLY_ACTIVE = 0.1  # variance of a posterior mean over the data; a fall of the KL is then a matter of its weight
_FALLEN = 1.0  # nats
_FEWEST_ROWS, _MOST_NUMBERS = 32, 2**24  # that are kept of each output until a check


class PosteriorProbe(Probe):
    """Rows of posterior means and log-variances, and the information in them."""

    def __init__(self, mean: str, log_variance: str, patience: int) -> None:
        super().__init__()
        self._arguments = {"mean": mean, "log_variance": log_variance}
        self._patience = patience
        self._outputs: dict[str, list[Tensor]] = {"mean": [], "log_variance": []}
        self._kl: list[float] = []

    def rules(self) -> dict[str, Alarm]:
        """No information, no active unit, and a fall."""
        return {
            "kl": Alarm(below=0.1, gain=0.05, growth=1.3, trend=5, patience=self._patience),
            "mean_variance": Alarm(below=posterior.ACTIVE, growth=1.5, trend=5, patience=self._patience),
            "fallen": Alarm(below=_FALLEN, of_peak=0.02, least_peak=5.0, growth=1.3, patience=self._patience),
        }

    def attach(self, to: Attachment) -> None:
        """Watch both modules, or the one."""
        if self._arguments["mean"] == self._arguments["log_variance"]:
            to.watch(to.module(self._arguments["mean"], "mean"), self._see_both)
            return
        to.watch(to.module(self._arguments["mean"], "mean"), lambda output: self._see("mean", output))
        to.watch(
            to.module(self._arguments["log_variance"], "log_variance"), lambda output: self._see("log_variance", output)
        )

    def _tensor(self, argument: str, output: Any) -> Tensor:
        tensor = sums.floating_tensor(output)
        if tensor is None or tensor.ndim < 2:
            found = type(output).__name__ if tensor is None else tuple(tensor.shape)
            raise self._refused(argument, f"its output ({found}) holds no features [n, d]", "Name the last layer")
        return tensor

    def _see(self, argument: str, output: Any) -> None:
        rows = posterior.latent_rows(self._tensor(argument, output))
        most = min(self.samples, sums.most_rows(rows.shape[1], _FEWEST_ROWS, _MOST_NUMBERS))
        self._outputs[argument].append(subset(rows, most).float().clone())

    def _see_both(self, output: Any) -> None:
        tensor = self._tensor("mean", output)
        features = 1 if tensor.ndim > 3 else -1
        if tensor.shape[features] % 2:
            rule = f"its output {tuple(tensor.shape)} cannot be split into two halves"
            raise self._refused("mean", rule, "Name the layers of mean and log-variance, if there are two")
        for argument, half in zip(self._outputs, posterior.halves(tensor, features), strict=True):
            self._see(argument, half)

    def _refused(self, argument: str, rule: str, remedy: str) -> TrickError:
        return TrickError(message("PosteriorCollapse", argument, self._arguments[argument], rule, remedy))

    def gather(self, run: TrainingRun, batch: Any, outputs: Any, *, first: bool) -> int:
        """Keep the rows of both, as many of each."""
        seen = self._outputs
        self._outputs = {"mean": [], "log_variance": []}
        missing = next((argument for argument, parts in seen.items() if not parts), None)
        if missing is not None:
            if first:
                raise self._refused(missing, "it was not called in the first training step", "Name one that is")
            return 0
        mean, log_variance = (torch.cat(parts) for parts in seen.values())
        if mean.shape != log_variance.shape:
            rule = f"rows {tuple(log_variance.shape)} do not fit a mean of {tuple(mean.shape)}"
            raise self._refused("log_variance", rule, "Name two layers of one width that are called equally often")
        count = min(len(mean), self.samples)
        most = sums.most_rows(mean.shape[1], _FEWEST_ROWS, _MOST_NUMBERS)
        room = min(count, most - len(self.sums["mean"])) if "mean" in self.sums else min(count, most)
        if room > 0:
            self.keep("mean", subset(mean, room))
            self.keep("log_variance", subset(log_variance, room))
        return count

    def measure(self, run: TrainingRun) -> Tensor:
        """Moments over all processes, counted from the mean over all."""
        mean, log_variance = self.sums["mean"], self.sums["log_variance"]
        rows: dict[str, Tensor] = {}
        sums.add_rows(rows, mean)
        shift = sums.centre(over_all(run, rows))
        return posterior.measured_posterior(over_all(run, posterior.moments(mean, log_variance, shift)))

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """KL, active units and the like."""
        values, self._kl = posterior.read_posterior(vector)
        return values

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """KL and the variance of the most active unit; NaN and inf count as the worst value."""
        if not values["finite"]:
            return {"kl": -1.0, "mean_variance": -1.0, "fallen": -1.0}
        kl, largest = values["kl"], values["largest_mean_variance"]
        fallen = kl if largest < _CLEARLY_ACTIVE else max(kl, _FALLEN)
        return {"kl": kl, "mean_variance": largest, "fallen": fallen}

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Say what is missing."""
        return latent_causes.of_posterior(
            active, values, self._arguments["mean"], judge.states["fallen"]["peak"] or 0.0
        )

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """KL of each dimension, and curves."""
        return lambda: figures.draw_posterior(self._kl, history, self._arguments["mean"])


@final
class PosteriorCollapse(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
    """Notice that the latent variables of a variational autoencoder carry nothing: the posterior is the prior.

    Measures the KL divergence of ``N(mean, exp(log_variance))`` from ``N(0, I)`` for each dimension in closed form, and
    the active units: dimensions whose posterior mean varies over the data by more than 0.01. Alarms: less than 0.1 nats
    in all dimensions together; no active unit, also where free bits keep the KL up; or a fall below 2 % of the highest
    KL and 1 nat, while no unit is clearly active. A KL or a variance that rises is not an alarm. With an annealed
    weight the KL is large while the weight is small and falls with it: that alone is not an alarm.

    Args:
        mean: name of the module whose output is the mean: ``[n, d]``, ``[n, tokens, d]`` or ``[n, d, ...]``.
        log_variance: name of the module whose output is the natural logarithm of the variance, of the same shape. The
            same name as ``mean`` means one module that returns both, one after the other, along the dimension of the
            features.
        every_n_steps: updates between two checks; as in ``RepresentationCollapse``, as the rest.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, there is no such module; at the first batch, it was not called, or the outputs are not
            a mean and a log-variance of one shape.
        UnsupportedError: at fit start, a module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/posterior_collapse/`` with ``kl`` (nats, mean over the data, all dimensions
        together), ``active_units``, ``active_share``, ``largest_mean_variance`` and ``mean_variance`` (of the posterior
        mean over the data, largest and mean of the dimensions), ``posterior_variance``, ``finite`` and ``alarm``. At an
        alarm the verdict as text, and a figure of the KL of each dimension.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``.

    Cost:
        At a check sums of at most 1,023 rows (of less, but 32, where they have more than 16 million numbers) and one
        copy of at most 263 numbers; at the batches before it a copy of their rows. On several processes three
        all-reduces at a check. Else the test of a flag.

    Example:
        >>> from lightning_tricks import PosteriorCollapse
        >>> PosteriorCollapse("to_mean", "to_log_variance").mean
        'to_mean'

    Reference: Burda et al., "Importance Weighted Autoencoders", 2016, arXiv:1509.00519 (active units); Bowman et al.,
    2016, arXiv:1511.06349; He et al., 2019, arXiv:1901.05534.
    """

    log_keys = POSTERIOR
    identity = ("mean", "log_variance")
    state_form = watch_form(sums=reduction.form_of(mean=2, log_variance=2))

    def __init__(
        self,
        mean: str,
        log_variance: str,
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        self.mean = require_name("PosteriorCollapse", "mean", mean)
        self.log_variance = require_name("PosteriorCollapse", "log_variance", log_variance)
        self.take(WatchSettings.checked("PosteriorCollapse", every_n_steps, action, patience, grace))
        self._reset()

    def _make_parts(self) -> tuple[Stages, ...]:
        return (Watch(self, PosteriorProbe(self.mean, self.log_variance, self.patience), self.settings),)
