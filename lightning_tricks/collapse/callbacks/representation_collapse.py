"""RepresentationCollapse: the outputs of a layer become one vector, or fill few dimensions only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor

from lightning_tricks.collapse import causes, figures, sums
from lightning_tricks.collapse.callbacks.reduction import over_all, require_name
from lightning_tricks.errors import TrickError, message
from lightning_tricks.measure.alarm import Alarm
from lightning_tricks.measure.causes import Explained
from lightning_tricks.runtime.action import Action
from lightning_tricks.runtime.detector import Detector, detector_form
from lightning_tricks.runtime.run import TrainingRun


@final
class RepresentationCollapse(Detector):
    """Notice that the outputs of a layer become one vector, or fill few dimensions only.

    Two measures, since neither sees both: the variance of directions ``V = 1 - ||mean of unit rows||^2`` (complete
    collapse) and the effective rank of the centred covariance (dimensional collapse, which the std of SimSiam's paper
    misses behind BatchNorm). For embeddings: in the last layer of a good classifier a low rank is healthy.

    Args:
        layer: name of the module whose output is watched. ``[n, d]``, ``[n, tokens, d]`` or ``[n, d, ...]``.
        every_n_steps: updates between two checks; None for the Trainer's ``log_every_n_steps``. A check looks at the
            last batches before it, as many as give 512 samples.
        action: ``"log"``, ``"warn"``, ``"stop"``, ``"raise"``, ``"rollback"``, a ``Rollback``, or a function that takes
            the verdict.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm: updates, each counted as its learning rate over the
            highest one, or ``"10%"`` of the run (at most 1,000; 200 where its length is not known), or ``"1ep"``.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, there is no such module; at the first batch, its output holds no tensor of features.
        UnsupportedError: at fit start, the module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/representation_collapse/`` with ``sphere_variance``, ``effective_rank``,
        ``rank_share`` (of the possible), ``embedding_std``, ``mean_cosine``, ``finite`` and ``alarm`` (0 or 1); the
        layer is in the key where several are watched. At an alarm the verdict as text, and a figure of the spectrum.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        Baselines of the alarms, what was gathered, the verdict, and with ``"rollback"`` the states to go back to: a
        checkpoint is then up to ``keep`` times larger.

    Cost:
        At a check sums of 512 rows, of at most 128 dimensions (wider ones through a fixed random projection), one copy
        to the host, eigenvalues of 128 x 128 there; on several processes three all-reduces and a host read. At the
        batches before it a copy of their rows. Else the test of a flag.

    Example:
        >>> from lightning_tricks import RepresentationCollapse
        >>> RepresentationCollapse("projector", action="stop").verdict.alarmed
        False

    Reference: Garrido et al., "RankMe", 2022, arXiv:2210.02885; Chen and He, "SimSiam", 2020, arXiv:2011.10566.
    """

    identity = ("layer",)
    state_form = detector_form(sums=sums.form_of(rows=2))

    def __init__(
        self,
        layer: str,
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        self.layer = require_name("RepresentationCollapse", "layer", layer)
        super().__init__(every_n_steps, action, patience, grace)

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._spectrum: list[float] = []
        self._seen = 0

    def rules(self) -> dict[str, Alarm]:
        """Complete and dimensional collapse."""
        return {
            "sphere_variance": Alarm(below=0.05, growth=1.5, patience=self.patience),
            "rank_share": Alarm(below=0.2, growth=1.3, patience=self.patience),
        }

    def attach(self, run: TrainingRun) -> None:
        """Watch the layer."""
        self.watch(self.module(run, self.layer, "layer"), self._add)

    def _add(self, output: Any) -> None:
        tensor = sums.floating_tensor(output)
        if tensor is None or tensor.ndim < 2 or (tensor.shape[-1] < 2 and tensor.ndim < 4):
            found = type(output).__name__ if tensor is None else tuple(tensor.shape)
            rule = f"its output ({found}) holds no features [n, d]"
            raise TrickError(message("RepresentationCollapse", "layer", self.layer, rule, "Name an inner layer"))
        rows = sums.feature_rows(tensor, self.samples)
        self._keep("rows", rows)
        self._seen += len(rows)

    def gather(self, run: TrainingRun, batch: Any, outputs: Any) -> int:
        """Count what the hook has added."""
        count, self._seen = self._seen, 0
        if self._first and not count:
            rule = "it was not called in the first training step"
            raise TrickError(message("RepresentationCollapse", "layer", self.layer, rule, "Name one that is"))
        return count

    def measure(self, run: TrainingRun) -> Tensor:
        """Moments over all processes, counted from the mean over all."""
        rows = self._sums["rows"].float()
        # at every check anew: features that have moved far from an older centre would lose their variance
        mean: dict[str, Tensor] = {}
        sums.add_rows(mean, rows)
        moments: dict[str, Tensor] = {}
        sums.add_features(moments, rows, sums.centre(over_all(run, mean)))
        return sums.measured_features(over_all(run, moments))

    def read(self, vector: list[float]) -> dict[str, float]:
        """Variance, rank and the like."""
        values, self._spectrum = sums.read_features(vector)
        return values

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """Variance and rank; features that are NaN or inf are worth nothing."""
        finite = values["finite"] > 0
        return {n: values[n] if finite else -1.0 for n in ("sphere_variance", "rank_share")}

    def explain(self, active: list[str], values: Mapping[str, float]) -> Explained:
        """Say which collapse."""
        return causes.of_representation(active, values, self.layer)

    def figure(self) -> Callable[[], Any] | None:
        """Spectrum and curves."""
        return lambda: figures.draw_spectrum(self._spectrum, self._history, self.layer)
