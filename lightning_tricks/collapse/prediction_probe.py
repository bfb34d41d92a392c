"""What ``PredictionCollapse`` looks at: predictions beside their targets, and whether samples are new."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_tricks.collapse import figures, prediction_alarms, references, sums
from lightning_tricks.collapse.association import Evidence
from lightning_tricks.collapse.first_batch import FirstBatch
from lightning_tricks.collapse.prediction_causes import of_prediction
from lightning_tricks.collapse.prediction_rows import (
    ANY_OUTPUT,
    Parts,
    are_next_tokens,
    no_output,
    output_of,
    rearranged,
    refused,
    rows_of,
    targets_of,
)
from lightning_tricks.collapse.prediction_search import OutputSearch, explains, loss_of
from lightning_tricks.collapse.prediction_values import KINDS, ClassCurve, Part, Targets, measured_rows, read_rows
from lightning_tricks.collapse.raw_inputs import RawInputs
from lightning_tricks.collapse.recent_checks import RecentChecks
from lightning_tricks.collapse.reduction import averaged, over_all
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.detection.sampler import Sampler
from lightning_tricks.lifecycle.messages import inform
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.graph import compared_targets
from lightning_tricks.modules.names import plain_modules
from lightning_tricks.numerics.shards import local
from lightning_tricks.numerics.subset import subset

# Of the samples that a check wants: an update of many micro-batches has more, and the test of association compares all
# pairs of them (4,096 rows take 0.6 s and 64 MB).
_MOST_TIMES = 2
_FEWEST_ROWS, _MOST_NUMBERS = 128, 2**26  # of logits that are kept until a check
_MOST_LOSSES = 8  # of a batch


class _Seen(NamedTuple):
    """What a watched batch has shown.

    Args:
        outputs: what the module gave.
        compared: targets of the loss functions.
    """

    outputs: list[Tensor]
    compared: list[Tensor]


class PredictionProbe(Probe):
    """Predictions and targets of a model."""

    def __init__(self, output: str, target: str, patience: int) -> None:
        super().__init__()
        self._output, self._target, self._patience = output, target, patience
        self._sampler = Sampler(1, self.samples)  # that of the watch, once attached
        self._seen = _Seen([], [])
        self._parts = Parts()
        self._inputs = RawInputs()
        self._targets = Targets()
        self._evidence = Evidence().init()
        self._recent = RecentChecks()
        self._first_batch = FirstBatch()
        self._classes = ClassCurve()
        self._sequences = False  # whether the network is one for them
        self._search: OutputSearch | None = None  # while the predictions are not known

    def rules(self) -> dict[str, Alarm]:
        """Never learned, in five ways, and lost."""
        return prediction_alarms.alarms(self._patience)

    def grace_factor(self, alarm: str) -> float:
        """Learning is slower than forgetting."""
        return prediction_alarms.grace_factor(alarm, sequences=self._sequences)

    def attach(self, to: Attachment) -> None:
        """Watch the module, where the output is one."""
        self._sampler = to.sampler
        modules = plain_modules(to.root)
        self._sequences = any(
            isinstance(m, (nn.RNNBase, nn.RNNCellBase)) or "Attention" in type(m).__name__ for m in modules.values()
        )
        self._inputs.attach(to)
        if self._output in modules:
            to.watch(to.module(self._output, "output"), self._see)
        elif self._output == ANY_OUTPUT:  # training_step may return it; else it is looked for in the first batch
            hidden = to.hidden()
            self._search = OutputSearch({name: m for name, m in modules.items() if id(m) not in hidden}, to.watch)

    def _see(self, output: Any) -> None:
        tensor = sums.floating_tensor(output)
        if tensor is None:
            rule = f"the output of that module ({type(output).__name__}) holds no floating-point tensor"
            raise refused("output", self._output, rule, "Name the last layer")
        self._seen.outputs.append(tensor)

    # -- on the device --------------------------------------------------------------------------------------------

    def before_backward(self, loss: Tensor) -> None:
        """Note with what the step compares its outputs: it may have flipped images with their masks."""
        # (with manual optimization a batch may have several losses)
        self._seen.compared[:] = [*self._seen.compared, *map(local, compared_targets(loss))][-_MOST_LOSSES:]

    def gather(self, run: TrainingRun, batch: Any, outputs: Any, *, first: bool) -> int:
        """Add the predictions of this batch."""
        (seen, compared), self._seen = self._seen, _Seen([], [])
        output = seen[0] if seen else output_of(outputs, self._output)
        if self._search is not None and (output is not None or loss_of(outputs) is not None):
            output = self._found_output(self._search, batch, outputs, compared) if output is None else output
            self._search.end()
            self._search = None
        if output is None:
            if first:
                raise no_output(outputs, self._output, plain_modules(run.trainer.lightning_module))
            return 0  # this training step returned nothing
        targets = rearranged(targets_of(batch, outputs, self._target), batch, compared)
        if first:
            shifted = are_next_tokens(output, targets, loss_of(outputs))
            self._targets = replace(self._targets, next_tokens=shifted)
        rows = self._rows(seen or [output], targets)
        if first and "logits" in rows:
            self._check_classes(rows["logits"], rows["target"])
        if self.sums.keys() - {*rows, "part", *RawInputs.NAMES}:  # of a checkpoint of other targets
            self.sums = {}
        explained = explains(rows, loss_of(outputs))
        rows |= self._inputs.beside(rows, batch, self._targets, self.sums, explained, wanted=self._recent.compares)
        width = rows["logits"].shape[1] if "logits" in rows else 1
        most = min(_MOST_TIMES * self.samples, sums.most_rows(width, _FEWEST_ROWS, _MOST_NUMBERS))
        room = most - (len(self.sums["part"]) if "part" in self.sums else 0)
        if room <= 0:
            self._inputs.known.see(batch, self.samples)
            return 0
        kept = {name: subset(part, min(self.samples, room)) for name, part in rows.items()}
        count = len(next(iter(kept.values())))
        part = self._parts.begin(count, first="part" not in self.sums)
        kept["part"] = torch.full((count,), part, device=output.device)
        for name, tensor in kept.items():
            self.keep(name, tensor)
        self._inputs.known.see(batch, self.samples)
        if first:
            self._first_batch.note(self._measured(kept, lambda own: own))
        return count

    def _found_output(self, search: OutputSearch, batch: Any, outputs: Any, compared: list[Tensor]) -> Tensor:
        """Find the module whose output are the predictions, and watch it from now on.

        Reads losses on the host, in the first batch only.

        Raises:
            TrickError: no output explains the loss; the message has the candidates.
        """
        targets = rearranged(targets_of(batch, outputs, self._target), batch, compared)
        name, output = search.find(self._output, targets, loss_of(outputs))
        inform(f"PredictionCollapse: watches the output of {name!r}; output={name!r} says so for good.")
        search.watch(name, self._see)
        return output

    def _rows(self, calls: list[Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
        # Of pairs that are ranked, of labelled and unlabelled images, of a clean and a perturbed pass: the first call
        # gets what the labels belong to; a later one may get what they say nothing about, or the opposite.
        if self._targets.next_tokens:
            targets = [t[:, 1:] for t in targets if t.shape == calls[0].shape[:2]]
            calls = [call[:, :-1] for call in calls]
        found = next((fit for call in calls if (fit := rows_of(call, targets)) is not None), None)
        if found is None:
            rule = f"no target fits logits of shape {tuple(calls[0].shape)}"
            remedy = "Return it from training_step as {'loss': ..., 'target': ...}, class numbers of shape [n]"
            raise refused("target", self._target, rule, remedy)
        rows, dense = found
        self._targets = replace(self._targets, dense=dense)
        return rows

    def _check_classes(self, logits: Tensor, target: Tensor) -> None:
        """Once, at the first batch: one host read."""
        top = int(target.max()) if target.numel() else -1
        if top >= logits.shape[1]:
            rule = f"label {top} is none of the {logits.shape[1]} classes of {self._output!r}"
            remedy = "Name the logits of these labels, or give the model more classes"
            raise refused("target", self._target, rule, remedy)

    def measure(self, run: TrainingRun) -> Tensor:
        """Counts over all processes; once also what was seen of the first batch, as a mean over them."""
        vector = self._measured(self.sums, lambda own: over_all(run, own))
        vector = self._first_batch.appended_to(vector, average=partial(averaged, run))
        answers = references.answers(self.sums, logits=self._targets.logits) if self._recent.compares else {}
        extent = torch.full((), self._inputs.extent, device=vector.device)
        total = over_all(run, {"known": self._inputs.known.take(vector.device), "extent": extent, **answers})
        known, extent = total.pop("known"), total.pop("extent")
        facts = torch.stack([known[0] / known[1].clamp(min=1), extent / run.trainer.world_size])
        # (made where the rest is: from the host it would have to be copied, and the host would wait)
        unknown = vector.new_full((references.SKILLS,), torch.nan)
        skills = references.skills(total).reshape(-1) if total else unknown
        return torch.cat([facts.to(vector), skills.to(vector), vector])

    def _measured(self, rows: Mapping[str, Tensor], add: Callable[[sums.Sums], sums.Sums]) -> Tensor:
        self._targets = self._targets.shaped(rows)
        return measured_rows(rows, self._targets.logits, add)

    # -- on the host ----------------------------------------------------------------------------------------------

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """Skill and the rest."""
        seen, extent, *vector = vector
        if self._recent.grew(extent):
            judge.restart("lost")  # longer sequences, larger images: the best skill was that of easier samples
        skills, vector = vector[: references.SKILLS], vector[references.SKILLS :]
        vector, of_first_batch = self._first_batch.taken_from(vector)
        if of_first_batch is not None:
            self._first_batch.values, _, self._targets = read_rows(of_first_batch, self._targets)
        values, shares, self._targets = read_rows(vector, self._targets)
        self._classes.add(shares, self._sampler.every)
        loss = values.get("cross_entropy", values.get("squared_error", 0.0))
        self._first_batch.highest = max(self._first_batch.highest, loss if math.isfinite(loss) else 0.0)
        evidence = Evidence(both_signs=self._targets.kind == "numbers")
        values["seen_before"] = seen
        network, reference, values["_reference"] = references.best(skills, self._targets.kind)
        pair = (network, reference) if self._recent.compares else references.LEVEL
        values["_by_network"], values["_by_reference"] = self._recent.skills(*pair)
        self._recent.compares = references.may_be_ahead(values, self._targets.kind)
        if shares:
            values["_pooled"] = self._classes.pooled_skill(values)
            values["_minority"] = values["_count"] * (1 - max(self._classes.labelled))
        values["association"], self._evidence = evidence.update(
            values["_score"], values["_count"], self._evidence, seen
        )
        values["_lately"] = self._recent.score(values["_score"], both_signs=evidence.both_signs)
        asked = prediction_alarms.association(values, values.get("skill", math.nan), **self._evidence_of(judge))
        waits = any(judge.suspects(name, value) and judge.in_grace(name) for name, value in asked.items())
        return {**values, "not_yet": float(waits)}

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """What is asked depends on the kind of target."""
        found = prediction_alarms.statistics(values, self._targets, **self._evidence_of(judge))
        before = {name: state["last"] for name, state in judge.states.items()}
        judge.waits = prediction_alarms.too_early(found, before)
        return found

    def _evidence_of(self, judge: Judge) -> dict[str, Any]:
        return {
            "samples": self._evidence["samples"],
            "unrelated": judge.states["association"]["alarmed"],
            "classes": self._targets.kind == "classes",
        }

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Say what kind of failure."""
        peak = judge.states["lost"]["peak"] or 0.0
        return of_prediction(active, values, peak, {**self._first_batch.values, "highest": self._first_batch.highest})

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """Classes over time."""
        classes = self._classes
        if not classes.predicted:
            return lambda: figures.draw_skill(history)
        return lambda: figures.draw_classes(classes.predicted, classes.labelled, history)

    # -- state ----------------------------------------------------------------------------------------------------

    def rolled_back(self) -> None:
        """What was learnt about the association was of the run that failed."""
        self._evidence, self._recent, self._classes.pool = Evidence().init(), RecentChecks(), []

    def state(self) -> dict[str, Any]:
        """The kind of target, what was measured of the first batch, known samples, and the pooled scores."""
        return {
            **self._first_batch.state(),
            **self._inputs.known.state(),
            "kind": self._targets.kind,
            "logits": self._targets.logits,
            "highest": self._first_batch.highest,
            "evidence": dict(self._evidence),
            "recent": self._recent.state(),
            "pool": [list(part) for part in self._classes.pool],
        }

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take them up.

        Raises:
            ValueError: a label that was gathered is none of the classes.
        """
        if "target" in self.sums and int(self.sums["target"].max()) >= self.sums["logits"].shape[1]:
            raise ValueError("a label in the checkpoint is none of the classes")  # (a GPU would end the process)
        device = run.trainer.strategy.root_device
        self._first_batch.load(state, device)
        self._inputs.known.load(state, device)
        self._targets = Targets(state.get("kind", KINDS[0]), state.get("logits", False))
        self._evidence = dict(state.get("evidence", Evidence().init()))
        self._recent = RecentChecks(**state.get("recent", {}))
        self._first_batch.highest = state.get("highest", 0.0)
        self._classes.pool = [Part(*part) for part in state.get("pool", [])]
        if self.sums:
            rows = next(iter(self.sums.values()))
            part = self.sums.setdefault("part", torch.zeros(len(rows), dtype=torch.int64, device=rows.device))
            self.sums = {**RawInputs.unknown(rows), **self.sums}
            self._parts = Parts.of(part)
