"""PredictionCollapse: a model that knows nothing about its targets, or no longer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_tricks.collapse import causes, figures, pairs, sums
from lightning_tricks.collapse.association import Evidence, fingerprints
from lightning_tricks.collapse.callbacks.reduction import averaged, over_all, require_name
from lightning_tricks.collapse.pooling import Part, pooled_skill
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.detector import Detector, detector_form, keep_bounded
from lightning_tricks.errors import TrickError, message, nearest
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.labels import matched
from lightning_tricks.modules.names import plain_modules
from lightning_tricks.numerics import form
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.subset import subset

_ANY_TARGET = "target"
_KINDS = ("classes", "shares", "labels", "numbers")  # the later ones are what the earlier ones are seen to be
_VOID = 255  # the label of pixels that do not count, where there are not as many classes
_SIGNIFICANT = 2.0  # standard errors
_LITTLE = 0.02  # skill that samples learnt by heart give soon
_FOLLOWED = 0.05  # squared correlation of predictions that are not constant
_NO_SPREAD = 3e-4  # of the limit of the variance of classes
_SHRUNK = 1e-5  # of the limit of the variance of classes: that of numbers is 1e-4 of the targets', 1 % of their std
_FEWEST = 1000  # samples of a test that may say that there is no association
_BACKGROUND = 0.01  # balanced skill of hard answers: below it all of them are one class
_REMEMBERED = 4096  # samples by which repeated ones are known
_LEAST = 16  # rows within which targets are dealt out: of several batches, where they are smaller
_ROWS = {"logits": sums.form_of(logits=2, target=1), "output": sums.form_of(output=2, values=2)}


def _rows_form(value: Any, where: str) -> str | None:
    """Rows of classes or of numbers, with the numbers of their batches unless an older version gathered them."""
    if not isinstance(value, dict):
        return _ROWS["logits"](value, where)
    rows = {name: part for name, part in value.items() if name != "part"}
    fault = _ROWS["output" if "output" in rows else "logits"](rows, where)
    if fault is None and "part" in value:
        fault = sums.form_of(part=1)({"part": value["part"]}, where)
    return fault


def _worth(skill: float) -> float:
    """Return ``1 / (1 - skill)``, the entropy of the labels over the cross entropy: 1 for skill 0, near 0 for garbage.

    >>> _worth(0.0), _worth(-1.0)
    (1.0, 0.5)
    """
    return 1 / (1 - min(skill, 0.99))


@final
class PredictionCollapse(Detector):
    """Notice a model that knows nothing about its targets, or no longer: one answer for all, inputs ignored, garbage.

    The measure is the skill ``1 - CE / H(labels)``: the entropy of the label histogram is the loss of the best answer
    that ignores the input, so 0 is that, for free, and imbalance is accounted for. Whether there is any skill at all is
    asked of a permutation test, pooled over checks, so that a weak signal is not taken for none. The kind of target is
    told from shapes and dtypes, and for targets of the size of the output from their values:

    - classes: whole numbers of one dimension less than the output. Also pixels, ``[n, K, h, w]`` with ``[n, h, w]``:
      there "all background" is a collapse, whatever the skill is.
    - labels: 0 or 1, of the size of the output (several labels at once, or two classes). Skill: ``1 - BCE / H`` of the
      label frequencies. Outputs that are all in [0, 1] are taken as probabilities, others as logits.
    - shares that add up to 1 in each row, of the size of the output: soft classes.
    - numbers, of the size of the output: a regression. Skill: the squared correlation of scores that few rows far out
      do not decide, so that a target in other units, a heavy tail and a reversed sign do not matter.
    - quantiles: output ``[n, Q]``, floating-point target ``[n]``: only whether their mean goes with the target.

    Alarms: the output is constant (after the grace); it is worse than the best constant one, skill below -0.2 (after
    the grace); no association with the target on samples that are new, z below 2 (after three times the grace), or on
    known ones, which are learnt by heart, a skill below 0.02 that does not grow (after twice the grace; "not yet" until
    then); all background (after twice the grace); or the skill was above 0.2 and fell below a quarter of its best
    (after half of the grace).

    Args:
        output: the logits or predictions: a key of what ``training_step`` returns, or the name of a module. ``[n, K]``,
            ``[n, tokens, K]``, ``[n, K, ...]``, or ``[n]`` for one number or two classes.
        target: a key of what ``training_step`` returns or of the batch; of a batch that is a tuple, with ``"target"``,
            the tensor whose shape fits: class numbers before floats of the same size. Negative labels (-100), 255 where
            there are not as many classes, and rows of floats with a NaN are left out.
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
        ``cross_entropy``, ``label_entropy``, ``balanced_skill`` and ``soft_balanced_skill`` (mean recall over classes,
        over chance), ``moved_skill`` (with predictions moved to the label frequencies), ``association`` (pooled z),
        ``seen_before`` (share of samples), ``not_yet`` (1 while there is none and time is left) and ``alarm``; of a
        regression ``correlation``, ``r_squared``, ``variance_ratio`` and ``squared_error``. At an alarm the verdict as
        text, and a figure of predicted classes over time.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``.

    Cost:
        At a check softmax and counts of 512 rows and one copy of some 90 numbers; on several processes two or three
        all-reduces more than for other detectors; at the batches before it a copy of
        their rows of logits (at most 1,023 are held). Else the test of a flag.

    Example:
        >>> from lightning_tricks import PredictionCollapse
        >>> PredictionCollapse("head").output
        'head'

    Reference: the input-independent baseline of Karpathy, "A Recipe for Training Neural Networks", 2019; the collapse
    itself: huggingface/transformers#297.
    """

    identity = ("output", "target")
    state_form = detector_form(
        sums=_rows_form,
        optional={
            "start": form.maybe(form.tensor),
            "at_start": form.named(form.measured),
            "kind": form.one_of(*_KINDS),
            "logits": form.flag,
            "highest": form.measured,
            "prints": form.maybe(form.tensor),
            "known": form.maybe(form.tensor),
            "pool": form.many(form.many(form.measured, 3)),
            "evidence": form.record(
                {
                    "last": form.many(form.measured),
                    **{"sum": form.number, "checks": form.whole, "samples": form.least_zero},
                }
            ),
        },
    )

    def __init__(
        self,
        output: str = "logits",
        target: str = _ANY_TARGET,
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
        self._part = self._inside = 0
        self._highest = 0.0
        self._prints: Tensor | None = None  # of samples that were seen, the latest first
        self._known: Tensor | None = None  # how many samples since the last check were known, of how many
        self._kind, self._no_probabilities = _KINDS[0], False
        self._dense = self._paired = self._quantiles = False
        self._evidence = Evidence().init()
        self._pool: list[Part] = []
        self._opening: Tensor | None = None  # what was measured of the very first batch, until the host has read it
        self._opening_sent = False
        self._at_start: dict[str, float] = {}

    def rules(self) -> dict[str, Alarm]:
        """Never learned, in four ways, and lost."""
        return {
            "constant": Alarm(below=1e-9, growth=1.5, trend=8, patience=self.patience),
            "worse": Alarm(below=_worth(-0.2), growth=1.1, patience=self.patience),
            "association": Alarm(below=_SIGNIFICANT, patience=self.patience),
            "background": Alarm(below=0.5, gain=0.01, trend=8, patience=self.patience),
            "skill": Alarm(below=_LITTLE, gain=0.01, trend=8, patience=self.patience),
            "lost": Alarm(of_peak=0.25, least_peak=0.2, gain=0.05, patience=self.patience),
        }

    def slowness(self, name: str) -> float:
        """Learning is slower than forgetting."""
        return {"association": 3.0, "skill": 2.0, "background": 2.0, "lost": 0.5}.get(name, 1.0)

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
        output = seen[-1] if seen else self._from_result(run, outputs)
        if output is None:
            return 0
        rows = self._rows(output, self._targets(batch, outputs))
        if self._first and "logits" in rows:
            self._check_classes(rows["logits"], rows["target"])
        kept = {name: subset(part, self.samples) for name, part in rows.items()}
        count = len(next(iter(kept.values())))
        if self._sums.keys() - {*kept, "part"}:  # of a checkpoint of other targets
            self._sums = {}
        if "part" not in self._sums:
            self._part = self._inside = 0
        elif self._inside >= _LEAST:
            self._part, self._inside = self._part + 1, 0
        self._inside += count
        kept["part"] = torch.full((count,), self._part, device=output.device)
        for name, part in kept.items():
            self._keep(name, part)
        self._recognise(batch)
        if self._first:
            self._opening = self._measured(kept, lambda own: own)
        return count

    def _recognise(self, batch: Any) -> None:
        """Count the samples of this batch, and those that are known from an earlier one."""
        tensors = [local(t) for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim > 1 and t.numel()]
        if not tensors:
            return
        inputs = max(tensors, key=lambda t: (t.is_floating_point(), t.numel()))
        prints = fingerprints(inputs[: self.samples])
        before = prints[:0] if self._prints is None else self._prints
        self._prints = torch.cat([prints, before])[:_REMEMBERED]
        new = torch.stack([torch.isin(prints, before).sum().float(), torch.full_like(prints[0], float(len(prints)))])
        self._known = new if self._known is None else self._known + new

    def _rows(self, output: Tensor, targets: list[Tensor]) -> dict[str, Tensor]:
        """Return output and target as rows: class numbers before values of the same size, those before quantiles."""
        whole = [t for t in targets if not t.is_floating_point()]
        for target in whole:
            found = None if pairs.paired(output, target) is not None else matched(output, target)
            if found is not None:
                self._dense = target.ndim > 2
                logits, label = found
                void = logits.shape[1] <= _VOID
                return {"logits": logits, "target": label.masked_fill(label == _VOID, -100) if void else label}
        values = [t for t in targets if t.is_floating_point()]
        tried = [(t, False) for t in (*values, *whole)] + [(t, True) for t in values]
        for target, quantiles in tried:
            pair = pairs.paired(output, target, quantiles=quantiles)
            if pair is not None:
                return dict(zip(("output", "values"), pair, strict=True))
        rule = f"no target fits logits of shape {tuple(output.shape)}"
        remedy = "Return it from training_step as {'loss': ..., 'target': ...}, class numbers of shape [n]"
        raise TrickError(message("PredictionCollapse", "target", self.target, rule, remedy))

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

    def measure(self, run: TrainingRun) -> Tensor:
        """Counts over all processes; once also what was seen of the first batch, as a mean over them."""
        vector = self._measured(self._sums, lambda own: over_all(run, own))
        none = torch.zeros(2, device=vector.device)
        known = over_all(run, {"known": none if self._known is None else self._known})["known"]
        self._known = None
        vector = torch.cat([(known[0] / known[1].clamp(min=1)).reshape(1).to(vector), vector])
        self._opening_sent = self._opening is not None
        return vector if self._opening is None else torch.cat([vector, averaged(run, self._opening)])

    def _measured(self, rows: Mapping[str, Tensor], add: Callable[[sums.Sums], sums.Sums]) -> Tensor:
        self._paired, part = "output" in rows, rows["part"]
        if not self._paired:
            return sums.measured_classes(rows["logits"].float(), rows["target"], part, add)
        output, values = rows["output"].float(), rows["values"].float()
        self._quantiles = output.shape[1] > values.shape[1]
        vector = pairs.measured_pairs(output, values, part, add, self._no_probabilities)
        if output.shape[1] > 1:
            return vector
        certain = (vector[pairs.NUMBERS.index("beyond")] == 0) & (not self._no_probabilities)
        return torch.cat([vector, sums.measured_classes(*pairs.two_classes(output, values, certain), part, add)])

    def read(self, vector: list[float]) -> dict[str, float]:
        """Skill and the rest."""
        seen, *vector = vector
        if self._opening_sent:
            half = len(vector) // 2
            self._at_start, _ = self._values(vector[half:])
            vector, self._opening, self._opening_sent = vector[:half], None, False
        self._checks += 1
        values, shares = self._values(vector)
        if shares:
            shown = len(shares) // 2
            self._shares.append((self._checks * self._every, shares[:shown]))
            keep_bounded(self._shares)
            self._labels = shares[shown:]
        loss = values.get("cross_entropy", values.get("squared_error", 0.0))
        self._highest = max(self._highest, loss if math.isfinite(loss) else 0.0)
        evidence, score = Evidence(both_signs=self._kind == "numbers"), values["_score"]
        values["seen_before"] = seen
        if shares:
            moved, size = values["moved_skill"], values["_count"]
            self._pool.append(Part(moved, size * values["label_entropy"], size * (1 - max(self._labels))))
            values["_pooled"], self._pool = pooled_skill(self._pool)
        values["association"], self._evidence = evidence.update(score, values["_count"], self._evidence, seen)
        asked = self._association(values, values.get("skill", math.nan))
        waits = any(
            value < self._alarms[name].limit(self._states[name]) and self._progress < self._grace * self.slowness(name)
            for name, value in asked.items()
        )
        return {**values, "not_yet": float(waits)}

    def _values(self, vector: list[float]) -> tuple[dict[str, float], list[float]]:
        """Return the values by name for the kind of target, and the shares of predicted and labelled classes."""
        if self._paired:
            numbers, vector = dict(zip(pairs.NUMBERS, vector, strict=False)), vector[len(pairs.NUMBERS) :]
            self._kind = max(self._kind, pairs.kind_of(numbers, two_classes=bool(vector)), key=_KINDS.index)
            self._no_probabilities |= numbers["beyond"] > 0
            if self._kind != "classes":
                return pairs.read_pairs(numbers, self._kind, quantiles=self._quantiles), []
        return dict(zip(sums.CLASSES, vector, strict=False)), vector[len(sums.CLASSES) :]

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """What is asked depends on the kind of target; a loss that is NaN or inf knows nothing."""
        if not math.isfinite(values.get("cross_entropy", values.get("squared_error", 0.0))):
            return dict.fromkeys(("constant", "worse", "association", "lost"), -1.0)
        skill = values.get("skill", values["correlation"] ** 2 if "correlation" in values else math.nan)
        found = {"constant": values["_spread"]}
        if self._kind == "numbers":  # of targets in other units the spread may be anything, but they are followed
            found["constant"] = 1.0 if skill > _FOLLOWED else _SHRUNK * values["_spread"]
        # weights of classes in the loss move predictions away from the frequencies: that is no lack of skill
        moved = max(skill, values.get("moved_skill", skill))
        if not math.isnan(found["constant"]):
            found |= self._association(values, moved)
        if self._quantiles:
            return found
        if self._kind == "numbers":
            return {**found, "lost": skill}
        related = max(values["_score"], values["association"]) > _SIGNIFICANT
        found |= {"worse": _worth(moved if related else skill), "lost": values.get("_pooled", moved)}
        if self._dense and not math.isnan(values["balanced_skill"]):
            found["background"] = 1.0 if values["balanced_skill"] > _BACKGROUND else values["soft_balanced_skill"]
        return found

    def _association(self, values: Mapping[str, float], skill: float) -> dict[str, float]:
        """Return what says whether there is any skill: a test on new samples, or how much there is on repeated ones."""
        found, enough = {}, self._evidence["samples"] >= _FEWEST
        if Evidence().counts(values["seen_before"]):
            # (rows of one sequence are not independent: outputs that hardly vary, and are no better than the best
            # constant ones, have not learnt anything however many there are)
            nothing = self._kind == "classes" and values["_spread"] < _NO_SPREAD and not values["skill"] > 0
            return (
                {"association": min(values["association"], 0.0) if nothing else values["association"]} if enough else {}
            )
        known = enough and values["association"] > _SIGNIFICANT
        if self._states["association"]["alarmed"]:
            found["association"] = max(values["association"], _SIGNIFICANT * skill / _LITTLE)
        return {**found, "skill": 1.0 if known else skill}

    def explain(self, active: list[str], values: Mapping[str, float]) -> Explained:
        """Say what kind of failure."""
        peak = self._states["lost"]["peak"] or 0.0
        return causes.of_prediction(active, values, peak, {**self._at_start, "highest": self._highest})

    def figure(self) -> Callable[[], Any] | None:
        """Classes over time."""
        if not self._shares:
            return lambda: figures.draw_skill(self._history)
        return lambda: figures.draw_classes(self._shares, self._labels, self._history)

    def rolled_back(self, run: TrainingRun) -> None:
        """Begin again; what was learnt about the association was of the run that failed."""
        super().rolled_back(run)
        self._evidence, self._pool = Evidence().init(), []

    def trick_state(self) -> dict[str, Any]:
        """Also the kind of target, what was measured of the first batch, and the pooled scores."""
        state = super().trick_state()
        held = {"start": self._opening, "prints": self._prints, "known": self._known}
        return {
            **state,
            **{name: None if t is None else t.detach().clone() for name, t in held.items()},
            "at_start": dict(self._at_start),
            "kind": self._kind,
            "logits": self._no_probabilities,
            "highest": self._highest,
            "evidence": dict(self._evidence),
            "pool": [list(part) for part in self._pool],
        }

    def _take_up(self, run: TrainingRun, state: dict[str, Any]) -> None:
        super()._take_up(run, state)
        if "target" in self._sums and int(self._sums["target"].max()) >= self._sums["logits"].shape[1]:
            raise ValueError("a label in the checkpoint is none of the classes")  # (a GPU would end the process)
        device, held = run.trainer.strategy.root_device, [state.get(name) for name in ("start", "prints", "known")]
        self._opening, self._prints, self._known = (None if t is None else t.to(device) for t in held)
        self._at_start = dict(state.get("at_start", {}))
        self._kind, self._no_probabilities = state.get("kind", _KINDS[0]), state.get("logits", False)
        self._evidence = dict(state.get("evidence", Evidence().init()))
        self._highest = state.get("highest", 0.0)
        self._pool = [Part(*part) for part in state.get("pool", [])]
        if self._sums:
            rows = next(iter(self._sums.values()))
            part = self._sums.setdefault("part", torch.zeros(len(rows), dtype=torch.int64, device=rows.device))
            self._part = int(part.max())
            self._inside = int((part == self._part).sum())
