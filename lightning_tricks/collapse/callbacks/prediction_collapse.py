"""PredictionCollapse: a model that knows nothing about its targets, or no longer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_tricks.collapse import causes, figures, sums
from lightning_tricks.collapse.callbacks.reduction import over_all, require_name
from lightning_tricks.errors import TrickError, message, nearest
from lightning_tricks.measure.alarm import Alarm
from lightning_tricks.measure.causes import Explained
from lightning_tricks.measure.labels import matched
from lightning_tricks.measure.subset import subset
from lightning_tricks.runtime.action import Action
from lightning_tricks.runtime.detector import Detector, detector_form, keep_bounded
from lightning_tricks.runtime.modules import plain_modules
from lightning_tricks.runtime.run import TrainingRun
from lightning_tricks.runtime.shards import local

_ANY_TARGET = "target"


@final
class PredictionCollapse(Detector):
    """Notice a classifier that knows nothing, or no longer: one class for all, inputs ignored, garbage.

    The measure is the skill ``1 - CE / H(labels)``: the entropy of the label histogram is the loss of the best answer
    that ignores the input, so 0 is that, for free, and imbalance is accounted for. Two alarms: after 1.5 times the
    grace the skill is below 0.02 and does not grow; or it was above 0.2 and fell below a quarter of its best.

    Args:
        output: the logits: a key of what ``training_step`` returns, or the name of a module. ``[n, K]``, ``[n, tokens,
            K]``, ``[n, K, ...]``, or ``[n]`` for two classes.
        target: the labels: a key of what ``training_step`` returns or of the batch; of a batch that is a tuple, with
            ``"target"``, the integer tensor whose shape fits. Negative labels (-100) are left out.
        every_n_steps: updates between two checks; as in ``RepresentationCollapse``, as the rest.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at the first batch, there is no such output, or no target that fits it.
        UnsupportedError: at fit start, the module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/prediction_collapse/`` with ``skill``, ``input_dependence``, ``class_divergence``
        (Jensen-Shannon, of predicted from labelled classes), ``macro_f1``, ``macro_f1_gain`` (over the trivial answer),
        ``predicted_classes`` and ``label_classes`` (effective numbers), ``top_share``, ``top_class``,
        ``cross_entropy``, ``label_entropy`` and ``alarm``. At an alarm the verdict as text, and a figure of predicted
        classes over time.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``.

    Cost:
        At a check softmax and counts of 512 rows and one copy of some 80 numbers; at the batches before it a copy of
        their rows of logits (at most 1,023 are held). Else the test of a flag.

    Example:
        >>> from lightning_tricks import PredictionCollapse
        >>> PredictionCollapse("head").output
        'head'

    Reference: the input-independent baseline of Karpathy, "A Recipe for Training Neural Networks", 2019; the collapse
    itself: huggingface/transformers#297.
    """

    identity = ("output", "target")
    state_form = detector_form(sums=sums.form_of(logits=2, target=1))

    def __init__(
        self,
        output: str = "logits",
        target: str = "target",
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        self.output = require_name("PredictionCollapse", "output", output)
        self.target = require_name("PredictionCollapse", "target", target)
        super().__init__(every_n_steps, action, patience, grace)

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._logits: list[Tensor] = []
        self._hooked = False
        self._shares: list[tuple[int, list[float]]] = []
        self._labels: list[float] = []
        self._checks = 0

    def rules(self) -> dict[str, Alarm]:
        """Never learned, and lost."""
        return {
            "skill": Alarm(below=0.02, gain=0.01, trend=8, patience=self.patience),
            "lost": Alarm(of_peak=0.25, least_peak=0.2, gain=0.05, patience=self.patience),
        }

    def slowness(self, name: str) -> float:
        """To learn takes longer than to lose."""
        return 1.5 if name == "skill" else 0.5

    def attach(self, run: TrainingRun) -> None:
        """Watch the module, where the output is one."""
        module = run.trainer.lightning_module
        self._hooked = self.output in plain_modules(module)
        if self._hooked:
            self.watch(self.module(run, self.output, "output"), self._see)

    def _see(self, output: Any) -> None:
        tensor = sums.floating_tensor(output)
        if tensor is None:
            rule = f"the output of that module ({type(output).__name__}) holds no floating-point tensor"
            raise TrickError(message("PredictionCollapse", "output", self.output, rule, "Name the last layer"))
        self._logits.append(tensor)

    def gather(self, run: TrainingRun, batch: Any, outputs: Any) -> int:
        """Add the predictions of this batch."""
        seen, self._logits = self._logits, []
        logits = seen[-1] if seen else self._from_result(run, outputs)
        if logits is None:
            return 0
        fitting = [p for p in (matched(logits, t) for t in self._targets(batch, outputs)) if p is not None]
        if not fitting:
            rule = f"no target fits logits of shape {tuple(logits.shape)}"
            remedy = "Return it from training_step as {'loss': ..., 'target': ...}, class numbers of shape [n]"
            raise TrickError(message("PredictionCollapse", "target", self.target, rule, remedy))
        if self._first:
            self._check_classes(*fitting[0])
        kept = [subset(part, self.samples) for part in fitting[0]]
        self._keep("logits", kept[0])
        self._keep("target", kept[1])
        return len(kept[1])

    def _from_result(self, run: TrainingRun, outputs: Any) -> Tensor | None:
        keys = [k for k, v in outputs.items() if isinstance(v, Tensor)] if isinstance(outputs, Mapping) else []
        if self.output in keys:
            return local(outputs[self.output])
        if not self._first:
            return None  # this training step returned nothing
        known = [*keys, *(n for n in plain_modules(run.trainer.lightning_module) if n)]
        near = nearest(self.output, known)
        rule = "training_step returns no such key, and there is no such module that it calls"
        remedy = f"The nearest name is {near!r}" if near else "Return {'loss': loss, 'logits': logits}"
        raise TrickError(message("PredictionCollapse", "output", self.output, rule, remedy))

    def _targets(self, batch: Any, outputs: Any) -> list[Tensor]:
        """Return the tensors that may be the labels, the likeliest first."""
        places = [place for place in (outputs, batch) if isinstance(place, Mapping)]
        for place in places:
            if isinstance(place.get(self.target), Tensor):
                return [local(place[self.target])]
        if self.target != _ANY_TARGET or isinstance(batch, Mapping):
            keys = [key for place in places for key in place if isinstance(key, str)]
            near = nearest(self.target, keys) or "target"
            rule = "neither the batch nor what training_step returns has such a key"
            remedy = f"The nearest name is {near!r}" if near in keys else "Return {'loss': ..., 'target': ...}"
            raise TrickError(message("PredictionCollapse", "target", self.target, rule, remedy))
        tensors = [local(t) for t in tree_leaves(batch) if isinstance(t, Tensor)]
        whole = [t for t in tensors if not t.is_floating_point()]
        return [*reversed(whole), *(t for t in reversed(tensors[1:]) if t.is_floating_point())]

    def _check_classes(self, logits: Tensor, target: Tensor) -> None:
        """Once, at the first batch: one host read."""
        top = int(target.max()) if target.numel() else -1
        if top >= logits.shape[1]:
            rule = f"label {top} is none of the {logits.shape[1]} classes of {self.output!r}"
            remedy = "Name the logits of these labels, or give the model more classes"
            raise TrickError(message("PredictionCollapse", "target", self.target, rule, remedy))

    def _take_up(self, run: TrainingRun, state: dict[str, Any]) -> None:
        super()._take_up(run, state)
        if self._sums and int(self._sums["target"].max()) >= self._sums["logits"].shape[1]:
            raise ValueError("a label in the checkpoint is none of the classes")  # (a GPU would end the process)

    def measure(self, run: TrainingRun) -> Tensor:
        """Counts over all processes."""
        counts: dict[str, Tensor] = {}
        sums.add_predictions(counts, self._sums["logits"].float(), self._sums["target"])
        return sums.measured_predictions(over_all(run, counts))

    def read(self, vector: list[float]) -> dict[str, float]:
        """Skill and the rest."""
        count = len(sums.PREDICTION)
        shown = (len(vector) - count) // 2
        self._checks += 1
        self._shares.append((self._checks * self._every, vector[count : count + shown]))
        keep_bounded(self._shares)
        self._labels = vector[count + shown :]
        return dict(zip(sums.PREDICTION, vector, strict=False))

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """Both alarms follow the skill; a loss that is NaN or inf knows nothing."""
        skill = values["skill"] if math.isfinite(values["cross_entropy"]) else -1.0
        return {"skill": skill, "lost": skill}

    def explain(self, active: list[str], values: Mapping[str, float]) -> Explained:
        """Say what kind of failure."""
        return causes.of_prediction(active, values, self._states["lost"]["peak"] or 0.0)

    def figure(self) -> Callable[[], Any] | None:
        """Classes over time."""
        return lambda: figures.draw_classes(self._shares, self._labels, self._history)
