"""What ``DeadUnits`` looks at: the outputs of activation layers, and the gradients that reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from lightning_tricks.collapse import causes, figures, sums, unit_sums
from lightning_tricks.collapse.reduction import averaged, over_all
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.errors import TrickError, message
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.graph import layers_with_parameters_behind
from lightning_tricks.modules.names import plain_modules
from lightning_tricks.numerics.shards import on_any_rank
from lightning_tricks.numerics.torch_internals import BATCH_NORM, CONVOLUTION
from lightning_tricks.numerics.trees import tree_leaves

_RANGES: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Hardtanh: (-1.0, 1.0),
}


_REDUCED: tuple[tuple[str, Literal["sum", "max"]], ...] = (("largest/", "max"), ("fired/", "sum"))


_HARD_ZERO = (nn.ReLU, nn.ReLU6, nn.Linear, *CONVOLUTION, *BATCH_NORM)


_SOFT = (nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Softplus)


class UnitsProbe(Probe):
    """Largest outputs, magnitudes and firings of the units of activation layers."""

    def __init__(self, layers: list[str] | None, patience: int) -> None:
        super().__init__()
        self._layers, self._patience = layers, patience
        self._names: list[str] = []
        self._kinds: dict[str, str] = {}
        self._calls = 0
        self._rows = 0
        self._silent: dict[str, Tensor] = {}
        self._outputs: list[str] | None = None  # layers that bound the output; None before the first batch
        self._graph: dict[str, list[Tensor]] = {}  # what bounded layers gave there
        self._behind: set[str] = set()  # of these, the ones with parameters behind them

    def rules(self) -> dict[str, Alarm]:
        """The share of units that still live, in the worst layer."""
        return {
            "dead": Alarm(below=0.2, gain=0.02, patience=self._patience),
            "saturated": Alarm(below=0.1, gain=0.02, patience=self._patience),
            "dormant": Alarm(below=0.1, gain=0.02, patience=self._patience),
        }

    def attach(self, to: Attachment) -> None:
        """Watch the layers."""
        for name, module in self._found(to).items():
            low, high = next((r for kind, r in _RANGES.items() if isinstance(module, kind)), (0.0, float("inf")))
            bounded = high < float("inf")
            hard = isinstance(module, _HARD_ZERO)
            self._kinds[name] = "saturated" if bounded else "dead" if hard else "dormant"
            to.watch(module, partial(self._add, name, low, high))

    def _found(self, to: Attachment) -> dict[str, nn.Module]:
        if self._layers is not None:
            return {name: to.module(name, "layers") for name in to.matching(self._layers)}
        hidden = to.hidden()
        kinds = (nn.ReLU, nn.ReLU6, *_SOFT, *_RANGES)
        found = {n: m for n, m in plain_modules(to.root).items() if isinstance(m, kinds) and id(m) not in hidden}
        if not found:
            rule = "the model has no activation modules outside of compiled graphs (torch.relu is a function)"
            remedy = "Name the layers before them, e.g. layers=['net.0']"
            raise TrickError(message("DeadUnits", "layers", self._layers, rule, remedy))
        return found

    def _add(self, name: str, low: float, high: float, output: Any) -> None:
        if self._outputs is None and self._kinds[name] == "saturated":
            self._graph.setdefault(name, []).extend(t for t in tree_leaves(output) if isinstance(t, Tensor))
        tensor = sums.floating_tensor(output)
        if tensor is None or tensor.ndim < 2 or not tensor.numel():
            return
        unit_sums.add_units(self.sums, name, tensor, low, high)
        self._calls += 1
        # (the units of images are their channels, which come second)
        self._rows = max(self._rows, tensor.numel() // tensor.shape[1 if tensor.ndim > 3 else -1])

    def before_backward(self, loss: Tensor) -> None:
        """Once, see which bounded layers have parameters behind them in the graph of the loss."""
        if self._outputs is None and self._graph:
            nodes = {name: [t.grad_fn for t in tensors] for name, tensors in self._graph.items()}
            self._behind |= layers_with_parameters_behind(loss, nodes)

    def gather(self, run: TrainingRun, batch: Any, outputs: Any, *, first: bool) -> int:
        """Count what the hooks have added."""
        if self._outputs is None and self._calls:
            samples = {tuple(t.shape[1:]) for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim > 1}
            # What has the shape of a tensor of the batch reconstructs it: black and white pixels belong at the ends of
            # the range.
            made = {name for name, found in self._graph.items() if any(tuple(t.shape[1:]) in samples for t in found)}
            kept = [name for name in self._graph if name in made or name not in self._behind]
            self._outputs, self._graph, self._behind = kept, {}, set()
        if first and not self._calls:
            rule = "none of the modules was called in the first training step"
            raise TrickError(message("DeadUnits", "layers", self._layers, rule, "Name modules that are"))
        count, self._calls, self._rows = self._rows, 0, 0
        return count

    def ready(self, run: TrainingRun, samples: int, waited: int) -> bool:
        """Whether there is a layer that was called on all ranks; others are left out of this check, on all of them."""
        if run.trainer.world_size == 1:
            return super().ready(run, samples, waited)
        seen = {_layer(key) for key in self.sums}
        missing = on_any_rank([name not in seen for name in self._kinds], run.trainer.strategy.root_device)
        common = [name for name, somewhere in zip(self._kinds, missing, strict=True) if not somewhere]
        if common:
            # (in the same order on all ranks: the reductions follow it)
            held = sorted((common.index(_layer(key)), key) for key in self.sums if _layer(key) in common)
            self.sums = {key: self.sums[key] for _, key in held}
        return bool(common)

    def measure(self, run: TrainingRun) -> Tensor:
        """Shares by layer: of the units that stopped in every process, averaged."""
        for kind, operation in _REDUCED:
            self.sums |= over_all(run, {k: t for k, t in self.sums.items() if k.startswith(kind)}, operation)
        self._silent = unit_sums.silent_checks(self._silent, self.sums)
        layers, shares = unit_sums.measured_units(self.sums, self._silent)
        self._names = [layer.rsplit("/", 1)[0] for layer in layers]
        return averaged(run, shares)

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """Of each layer the share that is meant for its kind; the worse one of a layer used with two widths."""
        values: dict[str, float] = {}
        for i, name in enumerate(self._names):
            kind = self._kinds[name]
            share = vector[3 * i + unit_sums.UNITS.index(kind)]
            values[f"{kind}/{name}"] = max(share, values.get(f"{kind}/{name}", 0.0))
        return values

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """Of each kind the living share of the worst layer."""
        shares = self._asked(values)
        kinds = {name.split("/", 1)[0] for name in shares}
        return {kind: 1.0 - max(v for n, v in shares.items() if n.startswith(kind + "/")) for kind in kinds}

    def _asked(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the shares of the layers that may not be at the ends of their range."""
        return {n: v for n, v in values.items() if n.split("/", 1)[1] not in (self._outputs or [])}

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Name the worst layer."""
        shares = self._asked(values)
        worst = max((n for n in shares if n.split("/", 1)[0] in active), key=lambda n: shares[n])
        kind, layer = worst.split("/", 1)
        return causes.of_units(kind, layer, values[worst])

    def rolled_back(self) -> None:
        """Units may live again."""
        self._silent = {}

    def state(self) -> dict[str, Any]:
        """For how long units have been silent, and which layers bound the output."""
        silent = {name: t.detach().clone() for name, t in self._silent.items()}
        return {"silent": silent, "outputs": self._outputs}

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take them up; an older version did not count firings, so what it gathered is dropped."""
        device = run.trainer.strategy.root_device
        self._silent = {name: t.to(device) for name, t in state.get("silent", {}).items()}
        self._outputs = state.get("outputs")
        if any(k.startswith("largest/") and k.replace("largest", "fired", 1) not in self.sums for k in self.sums):
            self.sums = {}

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """Shares over time."""
        return lambda: figures.draw_units(history)


def _layer(key: str) -> str:
    """Return the layer of a key as ``largest/net.1/24``."""
    return key.split("/", 1)[1].rsplit("/", 1)[0]
