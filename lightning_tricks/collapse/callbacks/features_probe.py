"""What ``RepresentationCollapse`` looks at: the outputs of layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.collapse import causes, figures, reduction, structure, sums
from lightning_tricks.collapse.reduction import over_all
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.errors import TrickError, message
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.shards import local, on_any_rank
from lightning_tricks.numerics.subset import subset
from lightning_tricks.numerics.trees import tree_leaves

_TREND = 8  # checks


# Of the size at the first check. Measured on the development scenarios: the features of healthy networks grow, and none
# of them shrank to less than 0.94, while losses that a point minimises bring them to 0.15 and below.
_SHRUNK, _GROWN = 0.2, (4.0, 100.0)  # beyond that, samples of a few kinds lie far apart


_LOW_RANK = 0.2  # of the possible rank


# A mean that moves away leaves features that keep their spread, and half of the rank, as different as they were: only
# below this variance of directions that is a collapse. Measured on the development scenarios: a student of a sharp
# teacher comes down to 0.024 before it rises, and students that collapse pass 0.015 with their rank at half.
_MOVED, _HALF = 0.015, 0.5


# what is followed of a layer, below which value it is bad, and by which factor it rises
_SAME_DIRECTION = 0.05


_LIMITS = {"sphere_variance": (_SAME_DIRECTION, 1.5), "rank_share": (_LOW_RANK, 1.3)}


# (inner layers of a stack may shrink, where later ones or a way around them take over)
_LIMITS_OF_ONE = {**_LIMITS, "size_share": (_SHRUNK, 1.3)}


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def rows_form(value: Any, where: str) -> str | None:
    """Rows of features of each layer, and their labels unless an older version gathered them."""
    if not isinstance(value, dict):
        return reduction.form_of(rows=2)(value, where)
    for key, tensor in value.items():
        kind = str(key).split("/", 1)[0]
        fault = reduction.form_of(**{kind: 1 if kind == "labels" else 2})({kind: tensor}, where)
        if fault is not None or kind not in ("rows", "labels"):
            return fault or f"{where}[{key!r}] is not known"
    return None


class FeaturesProbe(Probe):
    """Rows of features of one layer, or of several at different depths.

    Args:
        layer: name of a module, or a list of names from the first layer to the last; with a list each value has the
            name of its layer.
    """

    def __init__(self, layer: str | list[str], patience: int) -> None:
        super().__init__()
        self._layer, self._patience = layer, patience
        self._layers = list(layer) if isinstance(layer, list) else [layer]
        self._limits = _LIMITS if isinstance(layer, list) else _LIMITS_OF_ONE
        self._labelled = False  # whether batches hold labels
        self._calls: list[tuple[str, int, int]] = []  # in this batch: layer, length of the output, rows
        self._sizes: list[tuple[str, int]] = []  # layers of the last vector, and how many numbers each has there
        self._spectra: dict[str, list[float]] = {}  # of the last check
        self._first_size: dict[str, float] = {}  # of each layer's features, at its first check

    def _entry(self, name: str, layer: str) -> str:
        """Return a name with its layer, where there are several."""
        return f"{name}/{layer}" if isinstance(self._layer, list) else name

    def rules(self) -> dict[str, Alarm]:
        """Complete and dimensional collapse of each layer, and features that shrink to a point."""
        return {
            self._entry(name, layer): Alarm(below=below, growth=growth, trend=_TREND, patience=self._patience)
            for layer in self._layers
            for name, (below, growth) in self._limits.items()
        }

    def attach(self, to: Attachment) -> None:
        """Watch the layers."""
        for layer in self._layers:
            to.watch(to.module(layer, "layer"), partial(self._add, layer))

    def _add(self, layer: str, output: Any) -> None:
        tensor = sums.floating_tensor(output)
        # (a single feature has two directions only)
        if tensor is None or tensor.ndim < 2 or (tensor.shape[-1] < 2 and tensor.ndim < 4):
            found = type(output).__name__ if tensor is None else tuple(tensor.shape)
            raise self._refused(f"the output of {layer} ({found}) holds no features [n, d]", "Name an inner layer")
        rows = sums.narrowed(sums.feature_rows(tensor, self.samples))
        self.keep(self._entry("rows", layer), rows)
        count = len(tensor) if tensor.ndim > 3 else tensor.shape[:-1].numel()
        self._calls.append((layer, len(tensor), count))

    def _refused(self, rule: str, remedy: str) -> TrickError:
        return TrickError(message("RepresentationCollapse", "layer", self._layer, rule, remedy))

    def gather(self, run: TrainingRun, batch: Any, outputs: Any, *, first: bool) -> int:
        """Add the labels of what the hooks have added, and count it."""
        calls, self._calls = self._calls, []
        seen = dict.fromkeys((layer for layer, _, _ in calls), 0)
        missing = [layer for layer in self._layers if layer not in seen]
        if first and missing:
            raise self._refused(f"{missing[0]} was not called in the first training step", "Name one that is")
        labels = [local(t) for t in tree_leaves(batch) if isinstance(t, Tensor) and t.dtype in _WHOLE and t.ndim]
        for layer, length, count in calls:
            kept = min(count, self.samples)
            fitting = [found for t in labels if (found := structure.labels_of_rows(t, length, count)) is not None]
            self._labelled |= bool(fitting)
            held, key = self.sums[self._entry("rows", layer)], self._entry("labels", layer)
            unknown = partial(held.new_full, fill_value=-1, dtype=torch.int64)
            # (of several that fit, labels mostly stand behind inputs)
            label = subset(fitting[-1], self.samples).long() if fitting else unknown((kept,))
            if key not in self.sums:  # (rows of a checkpoint of an older version have none)
                before = len(held) - sum(min(c, self.samples) for n, _, c in calls if n == layer)
                self.sums[key] = unknown((before,))
            self.keep(key, label)
            seen[layer] += kept
        return min(seen.values(), default=0)

    def ready(self, run: TrainingRun, samples: int, waited: int) -> bool:
        """Whether all layers were called on all ranks."""
        if run.trainer.world_size == 1 or isinstance(self._layer, str):
            return super().ready(run, samples, waited)
        lacking = [self._entry("rows", layer) not in self.sums for layer in self._layers]
        return not any(on_any_rank(lacking, run.trainer.strategy.root_device))

    def measure(self, run: TrainingRun) -> Tensor:
        """Moments over all processes, counted from the mean over all."""
        # at every check again: features that have moved far from an older centre would lose their variance
        held = [layer for layer in self._layers if self._entry("labels", layer) in self.sums]
        rows = {layer: self.sums[self._entry("rows", layer)].float() for layer in held}
        means: dict[str, dict[str, Tensor]] = {layer: {} for layer in held}
        for layer in held:
            sums.add_rows(means[layer], rows[layer])
        whole = over_all(run, {f"{layer}/{n}": t for layer in held for n, t in means[layer].items()})
        moments: dict[str, Tensor] = {}
        for layer in held:
            own: dict[str, Tensor] = {}
            centre = sums.centre({n: whole[f"{layer}/{n}"] for n in means[layer]})
            sums.add_features(own, rows[layer], centre, self.sums[self._entry("labels", layer)])
            moments |= {f"{layer}/{n}": t for n, t in own.items()}
        moments = over_all(run, moments)
        parts = []
        for layer in held:
            of_layer = {n.removeprefix(f"{layer}/"): t for n, t in moments.items() if n.startswith(f"{layer}/")}
            parts.append(sums.measured_features(of_layer))
        self._sizes = [(layer, len(part)) for layer, part in zip(held, parts, strict=True)]
        return torch.cat(parts)

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """Variance, rank and the like."""
        values: dict[str, float] = {}
        for layer, length in self._sizes:
            part, vector = vector[:length], vector[length:]
            own, self._spectra[layer] = sums.read_features(part)
            size = own.pop("_size")
            if math.isfinite(size) and size > 0:
                self._first_size.setdefault(layer, size)
            own["_size_share"] = size / self._first_size.get(layer, math.nan)
            values |= {self._entry(name, layer): value for name, value in own.items()}
        return values

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """Variance and rank; NaN and inf count as the worst value."""
        found = {}
        for layer, _ in self._sizes:
            finite = values[self._entry("finite", layer)] > 0
            for name in self._limits:
                found[self._entry(name, layer)] = values[self._entry(f"_{name}", layer)] if finite else -1.0
            kept = [values[self._entry(name, layer)] for name in ("_size_share", "rank_share")]
            variance = self._entry("sphere_variance", layer)
            if finite and kept[0] >= 1 and kept[1] >= _HALF and found[variance] >= _MOVED:
                found[variance] = max(found[variance], _SAME_DIRECTION)
            # (few directions that have grown beside the others, as those of classes that are told apart: nothing fell)
            if finite and _GROWN[0] < values[self._entry("_size_share", layer)] < _GROWN[1]:
                rank = self._entry("rank_share", layer)
                found[rank] = max(found[rank], _LOW_RANK)
        return found

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Say which collapse."""
        if isinstance(self._layer, str):
            return causes.of_representation(active, values, self._layer, labelled=self._labelled)
        return causes.of_depth(active, values, [layer for layer, _ in self._sizes], labelled=self._labelled)

    def state(self) -> dict[str, Any]:
        """The size of the features at the first check."""
        return {"first_size": dict(self._first_size)}

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take it up; older versions did not keep it, and the next check is the first one then."""
        self._first_size = dict(state.get("first_size", {}))

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """Spectrum and curves, or what there is at each depth."""
        layer = self._layer
        if isinstance(layer, str):
            return lambda: figures.draw_spectrum(self._spectra.get(layer, []), history, layer)
        return lambda: figures.draw_depth(self._layers, history)
