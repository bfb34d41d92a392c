"""The detectors of collapse: what each watches, measures and says. How one runs is in ``runtime/detector.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_tricks.collapse import causes, figures, generation, recursive, sums
from lightning_tricks.dry_run.isolated import isolated, step_again
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import TrickError, UnsupportedError, in_one_line, message, nearest, require_count
from lightning_tricks.measure import form
from lightning_tricks.measure.alarm import Alarm
from lightning_tricks.measure.labels import matched
from lightning_tricks.measure.subset import subset
from lightning_tricks.runtime.action import Action, warn
from lightning_tricks.runtime.detector import Detector, detector_form, keep_bounded
from lightning_tricks.runtime.modules import plain_modules
from lightning_tricks.runtime.run import TrainingRun
from lightning_tricks.runtime.shards import local, on_any_rank, reduced

_MODE_SAMPLES = 256
_MODE_DIMENSIONS = 64
_NEIGHBOURS = 5
_BEST = form.maybe(form.measured)
_ANY_TARGET = "target"


def _over_all(
    run: TrainingRun, gathered: dict[str, Tensor], operation: Literal["sum", "max"] = "sum"
) -> dict[str, Tensor]:
    """Return sums, or maxima, over all processes: one all-reduce. All ranks must call."""
    if run.trainer.world_size == 1:
        return gathered
    flat = torch.cat([t.reshape(-1) for t in gathered.values()])
    total = reduced(run.trainer.strategy, flat, operation)
    parts = torch.split(total, [t.numel() for t in gathered.values()])
    return {name: part.view_as(t) for (name, t), part in zip(gathered.items(), parts, strict=True)}


def _averaged(run: TrainingRun, vector: Tensor) -> Tensor:
    """Return the mean over all processes. All ranks must call."""
    return reduced(run.trainer.strategy, vector, "mean")


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
        self.layer = _text("RepresentationCollapse", "layer", layer)
        super().__init__(every_n_steps, action, patience, grace)

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._spectrum: list[float] = []
        self._seen = 0

    def alarms(self) -> dict[str, Alarm]:
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
        sums.add_features(moments, rows, sums.centre(_over_all(run, mean)))
        return sums.measured_features(_over_all(run, moments))

    def read(self, vector: list[float]) -> dict[str, float]:
        """Variance, rank and the like."""
        values, self._spectrum = sums.read_features(vector)
        return values

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """Variance and rank; features that are NaN or inf are worth nothing."""
        finite = values["finite"] > 0
        return {n: values[n] if finite else -1.0 for n in ("sphere_variance", "rank_share")}

    def explain(self, active: list[str], values: Mapping[str, float]) -> causes.Explained:
        """Say which collapse."""
        return causes.of_representation(active, values, self.layer)

    def figure(self) -> Callable[[], Any] | None:
        """Spectrum and curves."""
        return lambda: figures.draw_spectrum(self._spectrum, self._history, self.layer)


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
        self.output = _text("PredictionCollapse", "output", output)
        self.target = _text("PredictionCollapse", "target", target)
        super().__init__(every_n_steps, action, patience, grace)

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._logits: list[Tensor] = []
        self._hooked = False
        self._shares: list[tuple[int, list[float]]] = []
        self._labels: list[float] = []
        self._checks = 0

    def alarms(self) -> dict[str, Alarm]:
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
        return sums.measured_predictions(_over_all(run, counts))

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

    def explain(self, active: list[str], values: Mapping[str, float]) -> causes.Explained:
        """Say what kind of failure."""
        return causes.of_prediction(active, values, self._states["lost"]["peak"] or 0.0)

    def figure(self) -> Callable[[], Any] | None:
        """Classes over time."""
        return lambda: figures.draw_classes(self._shares, self._labels, self._history)


@final
class ModeCollapse(Detector):
    """Notice a generator that makes few kinds of samples.

    Compares samples of a generator, as training makes them, with the real batches: the share of real samples within the
    reach of generated ones (recall, k = 5). Distances alone are blind to the loss of every second mode, and coverage
    asks for quality that a young GAN does not have. Alarm: recall below 0.25, or below 0.5 with distances below 0.9 of
    the real ones.

    Args:
        generator: name of the module whose output is a batch of samples.
        every_n_steps: updates between two checks; as in ``RepresentationCollapse``, as the rest.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, there is no such module; at the first batch, it was not called, gives no samples, or
            the batch holds no real samples of that size.
        UnsupportedError: at fit start, the module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/mode_collapse/`` with ``recall``, ``coverage``, ``precision``,
        ``pairwise_distance_ratio``, ``nearest_distance_ratio`` and ``alarm``; on several processes means over them. At
        an alarm the verdict as text, and a figure of samples.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``.

    Cost:
        At a check three matrices of distances of 256 samples of at most 64 numbers (more through a fixed random
        projection), one copy of 5 numbers to the host. Else the test of a flag.

    Example:
        >>> from lightning_tricks import ModeCollapse
        >>> ModeCollapse("generator").patience
        3

    Reference: Kynkaanniemi et al., 2019, arXiv:1904.06991; Naeem et al., 2020, arXiv:2002.09797.
    """

    identity = ("generator",)
    state_form = detector_form(sums=sums.form_of(generated=2, real=2))
    samples: ClassVar[int] = _MODE_SAMPLES
    fewest: ClassVar[int] = 64

    def __init__(
        self,
        generator: str,
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        self.generator = _text("ModeCollapse", "generator", generator)
        super().__init__(every_n_steps, action, patience, grace)

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._made: Tensor | None = None
        self._shown: tuple[Tensor, Tensor] | None = None

    def alarms(self) -> dict[str, Alarm]:
        """Recall, after both conditions were made one."""
        return {"recall": Alarm(below=0.25, growth=2.0, patience=self.patience)}

    def slowness(self, name: str) -> float:
        """A GAN takes its time."""
        return 2.0

    def attach(self, run: TrainingRun) -> None:
        """Watch the generator."""
        self.watch(self.module(run, self.generator, "generator"), self._see)

    def _see(self, output: Any) -> None:
        tensor = sums.floating_tensor(output)
        if tensor is None or tensor.ndim < 2:
            rule = "its output holds no batch of samples"
            raise TrickError(message("ModeCollapse", "generator", self.generator, rule, "Name the generator itself"))
        self._made = tensor

    def gather(self, run: TrainingRun, batch: Any, outputs: Any) -> int:
        """Keep samples of both kinds, as rows."""
        made, self._made = self._made, None
        if made is None:
            if self._first:
                rule = "it was not called in the first training step"
                raise TrickError(message("ModeCollapse", "generator", self.generator, rule, "Name one that is"))
            return 0
        real = self._real(batch, made)
        for name, rows in (("generated", made.flatten(1)), ("real", real.flatten(1))):
            small = sums.projected(rows.float(), _MODE_DIMENSIONS)
            kept = [self._sums[name]] if name in self._sums else []
            self._sums[name] = torch.cat([*kept, small])[-self.samples :]
        return min(len(made), len(real))

    def _real(self, batch: Any, made: Tensor) -> Tensor:
        size = made[:1].numel()
        for tensor in tree_leaves(batch):
            if isinstance(tensor, Tensor) and tensor.ndim > 1 and tensor[:1].numel() == size:
                return tensor.detach()
        rule = f"the batch holds no real samples of {size} numbers, as the generator makes them"
        raise TrickError(message("ModeCollapse", "generator", self.generator, rule, "Put real data into the batch"))

    def measure(self, run: TrainingRun) -> Tensor:
        """Measures of each process's own samples, averaged."""
        made, real = self._sums["generated"], self._sums["real"]
        self._shown = (made, real)
        k = min(_NEIGHBOURS, len(made) - 1, len(real) - 1)
        return _averaged(run, generation.mode_measures(made, real, max(1, k)))

    def read(self, vector: list[float]) -> dict[str, float]:
        """The measures by name."""
        return dict(zip(generation.MODES, vector, strict=True))

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """Recall; half of it where samples also lie closer together than real ones."""
        near = values["pairwise_distance_ratio"] < 0.9
        return {"recall": values["recall"] * (0.5 if near else 1.0)}

    def explain(self, active: list[str], values: Mapping[str, float]) -> causes.Explained:
        """Say how much is covered."""
        return causes.of_modes(values, self.generator)

    def figure(self) -> Callable[[], Any] | None:
        """Samples in two dimensions."""
        if self._shown is None:
            return None
        made, real = (t.tolist() for t in self._shown)
        return lambda: figures.draw_samples(made, real, self._history)


_RANGES: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Hardtanh: (-1.0, 1.0),
}
_HARD_ZERO = (nn.ReLU, nn.ReLU6, nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
_SOFT = (nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Softplus)


@final
class DeadUnits(Detector):
    """Notice layers whose units have stopped: dead (ReLU), saturated (sigmoid, tanh), or dormant (others).

    A unit is dead when its largest output over all samples of a check is not above 0: a sparse layer, whose units are
    0 for most inputs, is not dead. Alarm: more than 80 % of a layer dead, 90 % saturated, or 90 % dormant (at most
    2.5 % of the layer's mean magnitude).

    Args:
        layers: names or globs of modules; None for all activation modules (ReLU, GELU, SiLU, sigmoid, tanh, ...).
            Name a linear or convolutional layer to watch what ``torch.relu`` makes of it.
        every_n_steps: updates between two checks; as in ``RepresentationCollapse``, as the rest.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, no module matches; at the first batch, none was called.
        UnsupportedError: at fit start, a module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/dead_units/dead/<layer>`` (``saturated/``, ``dormant/``): shares of units; ``alarm``.
        At an alarm the verdict as text, and a figure of the shares over time.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``.

    Cost:
        At a check two reductions of each watched output, for as many batches as give 512 samples, and one copy of three
        numbers per layer. Else the test of a flag per layer.

    Example:
        >>> from lightning_tricks import DeadUnits
        >>> DeadUnits(["encoder.*"]).layers
        ['encoder.*']

    Reference: Sokar et al., "The Dormant Neuron Phenomenon", 2023, arXiv:2302.12902; Lu et al., "Dying ReLU and
    Initialization", 2019, arXiv:1903.06733.
    """

    identity = ("layers",)

    def __init__(
        self,
        layers: list[str] | None = None,
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        remedy = "Use e.g. ['encoder.*'], or None for all activation modules"
        if layers is not None and (
            not isinstance(layers, (list, tuple)) or not all(isinstance(n, str) and n for n in layers)
        ):
            raise TypeError(message("DeadUnits", "layers", layers, "layers must be a list of names", remedy))
        if layers is not None and not layers:
            raise ValueError(message("DeadUnits", "layers", layers, "layers must name at least one module", remedy))
        self.layers = None if layers is None else list(layers)
        super().__init__(every_n_steps, action, patience, grace)

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._names: list[str] = []
        self._kinds: dict[str, str] = {}
        self._calls = 0
        self._rows = 0

    def alarms(self) -> dict[str, Alarm]:
        """The share of units that still live, in the worst layer."""
        return {
            "dead": Alarm(below=0.2, gain=0.02, patience=self.patience),
            "saturated": Alarm(below=0.1, gain=0.02, patience=self.patience),
            "dormant": Alarm(below=0.1, gain=0.02, patience=self.patience),
        }

    def attach(self, run: TrainingRun) -> None:
        """Watch the layers."""
        for name, module in self._found(run).items():
            low, high = next((r for kind, r in _RANGES.items() if isinstance(module, kind)), (0.0, float("inf")))
            bounded = high < float("inf")
            hard = isinstance(module, _HARD_ZERO)
            self._kinds[name] = "saturated" if bounded else "dead" if hard else "dormant"
            self.watch(module, partial(self._add, name, low, high))

    def _found(self, run: TrainingRun) -> dict[str, nn.Module]:
        root = run.trainer.lightning_module
        if self.layers is not None:
            return {name: self.module(run, name, "layers") for name in self.matching(run, self.layers)}
        hidden = self.hidden(run)
        kinds = (nn.ReLU, nn.ReLU6, *_SOFT, *_RANGES)
        found = {n: m for n, m in plain_modules(root).items() if isinstance(m, kinds) and id(m) not in hidden}
        if not found:
            rule = "the model has no activation modules outside of compiled graphs (torch.relu is a function)"
            remedy = "Name the layers before them, e.g. layers=['net.0']"
            raise TrickError(message("DeadUnits", "layers", self.layers, rule, remedy))
        return found

    def _add(self, name: str, low: float, high: float, output: Any) -> None:
        tensor = sums.floating_tensor(output)
        if tensor is None or tensor.ndim < 2 or not tensor.numel():
            return
        sums.add_units(self._sums, name, tensor, low, high)
        self._calls += 1
        self._rows = max(self._rows, tensor.numel() // tensor.shape[1 if tensor.ndim > 3 else -1])

    def gather(self, run: TrainingRun, batch: Any, outputs: Any) -> int:
        """Count what the hooks have added."""
        if self._first and not self._calls:
            rule = "none of the modules was called in the first training step"
            raise TrickError(message("DeadUnits", "layers", self.layers, rule, "Name modules that are"))
        count, self._calls, self._rows = self._rows, 0, 0
        return count

    def ready(self, run: TrainingRun) -> bool:
        """Whether there is a layer that was called on all ranks; others are left out of this check, on all of them."""
        if run.trainer.world_size == 1:
            return super().ready(run)
        seen = {_layer(key) for key in self._sums}
        missing = on_any_rank([name not in seen for name in self._kinds], run.trainer.strategy.root_device)
        common = [name for name, somewhere in zip(self._kinds, missing, strict=True) if not somewhere]
        if common:
            held = sorted((common.index(_layer(key)), key) for key in self._sums if _layer(key) in common)
            self._sums = {key: self._sums[key] for _, key in held}
        return bool(common)

    def measure(self, run: TrainingRun) -> Tensor:
        """Shares by layer: of the units that stopped in every process, averaged."""
        largest = {key: t for key, t in self._sums.items() if key.startswith("largest/")}
        self._sums |= _over_all(run, largest, "max")
        layers, shares = sums.measured_units(self._sums)
        self._names = [layer.rsplit("/", 1)[0] for layer in layers]
        return _averaged(run, shares)

    def read(self, vector: list[float]) -> dict[str, float]:
        """Of each layer the share that is meant for its kind; the worse one of a layer used with two widths."""
        values: dict[str, float] = {}
        for i, name in enumerate(self._names):
            kind = self._kinds[name]
            share = vector[3 * i + sums.UNITS.index(kind)]
            values[f"{kind}/{name}"] = max(share, values.get(f"{kind}/{name}", 0.0))
        return values

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """Of each kind the living share of the worst layer."""
        kinds = {name.split("/", 1)[0] for name in values}
        return {kind: 1.0 - max(v for n, v in values.items() if n.startswith(kind + "/")) for kind in kinds}

    def explain(self, active: list[str], values: Mapping[str, float]) -> causes.Explained:
        """Name the worst layer."""
        worst = max((n for n in values if n.split("/", 1)[0] in active), key=lambda n: values[n])
        kind, layer = worst.split("/", 1)
        return causes.of_units(kind, layer, values[worst])

    def figure(self) -> Callable[[], Any] | None:
        """Shares over time."""
        return lambda: figures.draw_units(self._history)


def _layer(key: str) -> str:
    """Return the layer of a key as ``largest/net.1/24``."""
    return key.split("/", 1)[1].rsplit("/", 1)[0]


@final
class GenerationDrift(Detector):
    """Follow what a model generates, generation by generation: is it losing what the real data have?

    For training on one's own output: one generation is ``every_n_epochs`` epochs of one fit, with a new data set each
    time (``Trainer(reload_dataloaders_every_n_epochs=...)``). The data of the first epoch are taken as real. Samples of
    numbers are compared by variance, tails and recall; tokens (whole numbers) by distinct 4-grams and repetition. The
    loss on real data is measured too, with the module's own ``training_step``. Alarm: diversity below 75 % of its best
    while the loss on real data is 5 % above its best, or half as many distinct 4-grams as in real data; two in a row.

    Args:
        sample: a method of the LightningModule: ``sample(n)`` returns n generated samples ``[n, ...]``.
        num_samples: generated, and kept of the real data, >= 32.
        every_n_epochs: epochs in one generation.
        action: what to do about an alarm, as in ``RepresentationCollapse``.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, there is no such method, or what it returns is no tensor of samples; at the first
            batch, no real samples of that size are in it.
        UnsupportedError: at fit start, ``"rollback"``: it acts between generations, whose data cannot be put back.
        AlarmError: while training, with ``action="raise"``.

    Logs:
        After each generation, ``collapse/generation_drift/`` with ``diversity``, ``real_loss``, ``real_loss_ratio``
        (over the best), ``alarm``; for numbers ``variance_ratio``, ``tail_mass`` (expect 0.1) and ``recall``; for
        tokens ``distinct_ratio``, ``repetition`` and ``real_repetition``. At an alarm a text and a figure.

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

    identity = ("sample",)
    state_form = detector_form(real=form.maybe(form.tensor), batch=form.anything, best=form.many(_BEST, 2))

    def __init__(
        self, sample: str = "sample", num_samples: int = 512, every_n_epochs: int = 1, action: Action = "warn"
    ) -> None:
        owner = "GenerationDrift"
        self.sample = _text(owner, "sample", sample)
        self.num_samples = require_count(owner, "num_samples", num_samples, low=32, remedy="Use e.g. 512")
        self.every_n_epochs = require_count(owner, "every_n_epochs", every_n_epochs, remedy="Use e.g. 1")
        super().__init__(1, action, 2, 0)
        if not isinstance(self.action, str) and not callable(self.action):
            text = "generations cannot be put back"
            raise UnsupportedError(message(owner, "action", action, text, "Use 'stop', 'warn' or 'raise'"))

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._real: Tensor | None = None
        self._batch: Any = None
        self._whole = False
        self._best_loss: float | None = None
        self._best_diversity: float | None = None

    def configuration(self) -> dict[str, Any]:
        """The arguments."""
        more = {n: getattr(self, n) for n in ("num_samples", "every_n_epochs")}
        return {**super().configuration(), **more}

    def alarms(self) -> dict[str, Alarm]:
        """Diversity, and distinct n-grams beside real ones."""
        return {"diversity": Alarm(below=0.75, patience=2), "repetition": Alarm(below=0.5, patience=2)}

    def attach(self, run: TrainingRun) -> None:
        """See that the method is there."""
        module = run.trainer.lightning_module
        if not callable(getattr(module, self.sample, None)):
            near = nearest(self.sample, [n for n in dir(type(module)) if not n.startswith("_")])
            remedy = f"The nearest name is {near!r}" if near else "Write sample(self, n) that returns n samples"
            rule = f"{type(module).__name__} has no such method"
            raise TrickError(message("GenerationDrift", "sample", self.sample, rule, remedy))

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Generate two samples, to see what they are."""
        super().started(run, state)
        two = self._generate(run, 2)
        self._whole = not two.is_floating_point()
        self._shape = tuple(two.shape[1:])

    @torch.no_grad()
    def _generate(self, run: TrainingRun, count: int) -> Tensor:
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

    # -- steps: keep the real data of the first epoch ---------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep real samples, and the first batch."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._watched = self._armed = False
        missing = self._live is not None and trainer.current_epoch == 0
        if missing and (self._real is None or len(self._real) < self.num_samples):
            rows = self._rows_of(batch)
            if self._real is not None and self._real.shape[1:] != rows.shape[1:]:  # of a checkpoint of other data
                self._real = None
            kept = [] if self._real is None else [self._real]
            self._real = torch.cat([*kept, rows.clone()])[: self.num_samples]
            if self._batch is None and pl_module.automatic_optimization:
                self._batch = batch

    def _rows_of(self, batch: Any) -> Tensor:
        for tensor in [t for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim]:
            alike = tensor.ndim == 1 + len(self._shape) if self._whole else tuple(tensor.shape[1:]) == self._shape
            if alike and tensor.is_floating_point() != self._whole:
                return tensor.detach()
        rule = f"the batch holds no real samples of shape {self._shape}, as {self.sample}() returns them"
        raise TrickError(message("GenerationDrift", "sample", self.sample, rule, "Put real data into the batch"))

    def ready(self, run: TrainingRun) -> bool:
        """Not after an update: a generation is looked at between epochs."""
        return False

    # -- a generation -----------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at a generation."""
        super().on_train_epoch_end(trainer, pl_module)
        run = self._live
        if run is None or self._real is None or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        values = self._measured(run, self._generate(run, len(self._real)), self._real)
        names, vector = list(values), torch.tensor(list(values.values()), dtype=torch.float64)
        device = trainer.strategy.root_device
        numbers = _averaged(run, vector.to(device, torch.float32 if device.type == "mps" else vector.dtype)).tolist()
        self._names = names
        self._hear(run, run.step, 1, 1.0, numbers)
        self._act(run)

    def _measured(self, run: TrainingRun, made: Tensor, real: Tensor) -> dict[str, float]:
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
        """Return the loss on the first batch; None where the module cannot be asked, which is said once."""
        try:
            return loss_of(step_again(run, self._batch, 0, evaluate=True, together=True))
        except Exception as error:
            self._batch = None
            what = f"training_step cannot be called again ({type(error).__name__}: {in_one_line(error)})"
            warn("GenerationDrift", f"{what}: the loss on real data is not followed.")
            return None

    def read(self, vector: list[float]) -> dict[str, float]:
        """Values by name, and ratios to the best generation."""
        values = dict(zip(self._names, vector, strict=True))
        if "real_loss" in values:
            loss = values["real_loss"]
            self._best_loss = loss if self._best_loss is None else min(loss, self._best_loss)
            values["real_loss_ratio"] = loss / self._best_loss if self._best_loss > 0 else 1.0
        own = values["diversity"]
        self._best_diversity = own if self._best_diversity is None else max(own, self._best_diversity)
        values["diversity"] = min(1.0, own / max(1e-9, self._best_diversity))
        return values

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """Diversity counts as lost only where the real data have become less likely too."""
        sound = values.get("real_loss_ratio", float("inf")) <= 1.05
        found = {"diversity": 1.0 if sound else values["diversity"]}
        if "distinct_ratio" in values:
            found["repetition"] = values["distinct_ratio"]
        return found

    def explain(self, active: list[str], values: Mapping[str, float]) -> causes.Explained:
        """Say what was lost."""
        return causes.of_drift(active, values)

    def figure(self) -> Callable[[], Any] | None:
        """Curves over generations."""
        return lambda: figures.draw_generations(self._history)

    def trick_state(self) -> dict[str, Any]:
        """Also the real data."""
        tensors = self._batch is None or all(isinstance(t, (Tensor, int, float, str)) for t in tree_leaves(self._batch))
        own = {"real": self._real, "batch": self._batch if tensors else None}
        return {**super().trick_state(), **own, "best": [self._best_loss, self._best_diversity]}

    def _take_up(self, run: TrainingRun, state: dict[str, Any]) -> None:
        super()._take_up(run, state)
        strategy = run.trainer.strategy
        self._real, self._batch = state["real"], state["batch"]
        if self._real is not None:
            self._real = self._real.to(strategy.root_device)
        if self._batch is not None:
            self._batch = strategy.batch_to_device(self._batch)
        self._best_loss, self._best_diversity = state["best"]


def _text(owner: str, argument: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        rule = f"{argument} must be a name"
        raise TypeError(message(owner, argument, value, rule, "Use e.g. 'encoder', as in named_modules()"))
    return value
