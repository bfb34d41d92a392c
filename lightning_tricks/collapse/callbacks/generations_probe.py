"""What ``GenerationDrift`` looks at: samples of the model against real data, and the loss on these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_tricks.collapse import causes, figures, generation, recursive, sums
from lightning_tricks.collapse.reduction import averaged
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.dry_run.isolated import isolated, step_again
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import TrickError, in_one_line, message, nearest
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.numerics.subset import subset
from lightning_tricks.numerics.trees import tree_leaves

_MODE_SAMPLES = 256


_MODE_DIMENSIONS = 64


_NEIGHBOURS = 5


class GenerationsProbe(Probe):
    """Real samples of the first epoch, what the model generates after each generation, and their comparison."""

    hooks_modules = False

    def __init__(self, sample: str, num_samples: int) -> None:
        super().__init__()
        self.sample, self.num_samples = sample, num_samples
        self.real: Tensor | None = None
        self._batch: Any = None  # for the loss on real data
        self._whole = False  # whether samples are tokens
        self._shape: tuple[int, ...] = ()
        self._names: list[str] = []
        self._best_loss: float | None = None
        self._first_loss: float | None = None
        self._best_diversity: float | None = None

    def rules(self) -> dict[str, Alarm]:
        """Diversity, and distinct n-grams beside real ones."""
        # a young model repeats itself, and what rises has not collapsed
        limits = {"diversity": 0.75, "repetition": 0.5}
        rules = {name: Alarm(below=low, gain=0.02, growth=1.05, patience=2) for name, low in limits.items()}
        return {**rules, "closeness": Alarm(below=0.5, growth=1.05, patience=3)}

    def attach(self, to: Attachment) -> None:
        """See that the method is there."""
        module = to.root
        if not callable(getattr(module, self.sample, None)):
            near = nearest(self.sample, [n for n in dir(type(module)) if not n.startswith("_")])
            remedy = f"The nearest name is {near!r}" if near else "Write sample(self, n) that returns n samples"
            rule = f"{type(module).__name__} has no such method"
            raise TrickError(message("GenerationDrift", "sample", self.sample, rule, remedy))

    def look_at_samples(self, run: TrainingRun) -> None:
        """Generate two samples, to see what they are."""
        two = self.generate(run, 2)
        self._whole = not two.is_floating_point()
        self._shape = tuple(two.shape[1:])

    @torch.no_grad()
    def generate(self, run: TrainingRun, count: int) -> Tensor:
        """Return generated samples ``[count, ...]``, made in eval mode and in a snapshot that puts everything back."""
        module = run.trainer.lightning_module
        with isolated(run, together=True):
            module.eval()
            with run.trainer.precision_plugin.train_step_context():
                made = getattr(module, self.sample)(count)
            made = made.detach().clone() if isinstance(made, Tensor) else made  # (it may be part of the module)
        if not isinstance(made, Tensor) or made.ndim < 1 or len(made) != count:
            found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            rule = f"{self.sample}({count}) returned {found} instead of {count} samples [{count}, ...]"
            raise TrickError(message("GenerationDrift", "sample", self.sample, rule, "Return one tensor"))
        return made

    def keep_real(self, batch: Any, *, automatic: bool) -> None:
        """Keep real samples of a batch, until there are enough; and the first batch.

        Args:
            batch: as Lightning gives it to the training step.
            automatic: whether optimization is automatic: only then can the loss on the batch be asked for.
        """
        if self.real is not None and len(self.real) >= self.num_samples:
            return
        rows = self._rows_of(batch)
        if self.real is not None and self.real.shape[1:] != rows.shape[1:]:  # of a checkpoint of other data
            self.real = None
        kept = [] if self.real is None else [self.real]
        self.real = torch.cat([*kept, rows.clone()])[: self.num_samples]
        # (with manual optimization ``training_step`` makes updates, and cannot be called once more)
        if self._batch is None and automatic:
            self._batch = batch

    def _rows_of(self, batch: Any) -> Tensor:
        for tensor in [t for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim]:
            alike = tensor.ndim == 1 + len(self._shape) if self._whole else tuple(tensor.shape[1:]) == self._shape
            if alike and tensor.is_floating_point() != self._whole:
                return tensor.detach()
        rule = f"the batch holds no real samples of shape {self._shape}, as {self.sample}() returns them"
        raise TrickError(message("GenerationDrift", "sample", self.sample, rule, "Put real data into the batch"))

    def ready(self, run: TrainingRun, samples: int, waited: int) -> bool:
        """Not after an update: a generation is looked at between epochs."""
        return False

    def look(self, run: TrainingRun) -> list[float]:
        """Generate as many samples as there are real ones; return what ``read`` takes, averaged over processes."""
        assert self.real is not None
        values = self.compare(run, self.generate(run, len(self.real)), self.real)
        self._names = list(values)
        device, vector = run.trainer.strategy.root_device, torch.tensor(list(values.values()), dtype=torch.float64)
        # (Apple's GPUs have no float64)
        found = averaged(run, vector.to(device, torch.float32 if device.type == "mps" else vector.dtype))
        numbers: list[float] = found.tolist()
        return numbers

    def compare(self, run: TrainingRun, made: Tensor, real: Tensor) -> dict[str, float]:
        """Return this process's values by name: of generated against real samples, and the loss on real data."""
        values: dict[str, float] = {}
        if self._whole:
            length = min(made.shape[-1], real.shape[-1])
            one, two = made[..., :length], real[..., :length].to(made.device)
            repeated, usual = (float(generation.repetition_rate(t)) for t in (one, two))
            ratio = (1 - repeated) / max(1e-9, 1 - usual)
            values |= {"distinct_ratio": ratio, "repetition": repeated, "real_repetition": usual, "diversity": ratio}
        else:
            one = sums.projected(made.reshape(len(made), -1).float(), _MODE_DIMENSIONS)
            two = sums.projected(real.reshape(len(real), -1).float(), _MODE_DIMENSIONS)
            k = min(_NEIGHBOURS, len(made) - 1)
            variance = float(recursive.variance_ratio(one, two))
            values |= {
                "variance_ratio": variance,
                "tail_mass": float(recursive.tail_mass(one, two)),
                "recall": float(generation.recall(subset(one, _MODE_SAMPLES), subset(two, _MODE_SAMPLES), k)),
                "diversity": variance**0.5,
            }
        loss = None if self._batch is None else self._loss_on_real(run)
        if isinstance(loss, Tensor):
            values["real_loss"] = float(loss)
        return values

    def _loss_on_real(self, run: TrainingRun) -> Any:
        """Return the loss on the first batch; None, with one warning, where the module cannot be asked."""
        try:
            return loss_of(step_again(run, self._batch, 0, evaluate=True, together=True))
        except Exception as error:
            self._batch = None
            what = f"training_step cannot be called again ({type(error).__name__}: {in_one_line(error)})"
            warn("GenerationDrift", f"{what}: the loss on real data is not followed.")
            return None

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """Values by name, and ratios to the best generation."""
        values = dict(zip(self._names, vector, strict=True))
        if "real_loss" in values:
            loss = values["real_loss"]
            self._best_loss = loss if self._best_loss is None else min(loss, self._best_loss)
            self._first_loss = loss if self._first_loss is None else self._first_loss
            values["real_loss_ratio"] = recursive.loss_ratio(loss, self._best_loss, self._first_loss)
        own = values["diversity"]
        if not self._whole:  # a variance above that of real data is noise of a young model, which it loses by learning
            own = min(1.0, own)
        self._best_diversity = own if self._best_diversity is None else max(own, self._best_diversity)
        values["diversity"] = min(1.0, own / max(1e-9, self._best_diversity))
        return values

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """Diversity counts as lost only where real data have become less likely too; they alone, where they are far."""
        sound = values.get("real_loss_ratio", float("inf")) <= 1.05
        found = {"diversity": 1.0 if sound else values["diversity"]}
        if values.get("real_loss_ratio", 0.0) > 0:
            found["closeness"] = 1 / values["real_loss_ratio"]
        if "distinct_ratio" in values:
            found["repetition"] = values["distinct_ratio"]
        return found

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Say what was lost."""
        return causes.of_drift(active, values)

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """Curves over generations."""
        return lambda: figures.draw_generations(history)

    def state(self) -> dict[str, Any]:
        """The real data, and the best so far."""
        # (only what loads with ``weights_only=True``)
        tensors = self._batch is None or all(isinstance(t, (Tensor, int, float, str)) for t in tree_leaves(self._batch))
        return {
            "real": self.real,
            "batch": self._batch if tensors else None,
            "first_loss": self._first_loss,
            "best": [self._best_loss, self._best_diversity],
        }

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take them up."""
        strategy = run.trainer.strategy
        self.real, self._batch = state["real"], state["batch"]
        if self.real is not None:
            self.real = self.real.to(strategy.root_device)
        if self._batch is not None:
            self._batch = strategy.batch_to_device(self._batch)
        self._best_loss, self._best_diversity = state["best"]
        # (a checkpoint of an older version has no first loss)
        self._first_loss = state.get("first_loss", self._best_loss)
