"""The experiments of SanityCheck, in a dry_run training that leaves no trace. What they mean is in ``sanity.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.dry_run.generators import global_state, set_global_state
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import in_one_line
from lightning_tricks.measure.labels import counted, matched
from lightning_tricks.measure.units import dead_share, saturated_share
from lightning_tricks.runtime.modules import in_compiled_graphs, plain_modules
from lightning_tricks.runtime.selection import parameter_names
from lightning_tricks.runtime.trace import floating

UPDATES = 60
LABEL_BATCHES = 8
NEIGHBOURS = 512
_RANGES: tuple[tuple[type[nn.Module], float, float], ...] = ((nn.Sigmoid, 0.0, 1.0), (nn.Tanh, -1.0, 1.0))


@dataclass
class Look:
    """One forward pass: loss, the output that seems to be the prediction, and its target."""

    loss: Tensor | None
    outputs: list[Tensor]
    prediction: Tensor | None = None
    target: Tensor | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None


class Examination:
    """Runs the experiments.

    Args:
        dry_run: a dry_run that has been entered.
        module: the LightningModule.
        optimizers: all of the run.
    """

    def __init__(self, dry_run: DryRun, module: nn.Module, optimizers: list[Any]) -> None:
        self._dry_run, self._module, self._optimizers = dry_run, module, optimizers
        hidden = in_compiled_graphs(module)
        self._modules = {n: m for n, m in plain_modules(module).items() if n and id(m) not in hidden}
        self._batch = dry_run.next_batch()
        self._first = self._look(self._batch)

    # -- looking ----------------------------------------------------------------------------------------------------

    def _look(self, batch: Any, *, gradient: bool = False) -> Look:
        outputs: list[Tensor] = []
        leaves = [m for m in self._modules.values() if not any(m.children())]
        handles = [m.register_forward_hook(lambda _, args, out: outputs.extend(floating(out)[:1])) for m in leaves]
        try:
            with torch.set_grad_enabled(gradient):
                result = self._dry_run.output(batch)
        finally:
            for handle in handles:
                handle.remove()
        named = [v for k, v in result.items() if k != "loss"] if isinstance(result, Mapping) else []
        candidates = [*reversed([t for t in outputs if t.ndim]), *floating(named)]
        look = Look(loss_of(result), [t.detach() for t in outputs])
        self._pair(look, candidates, batch)
        return look

    def _pair(self, look: Look, candidates: list[Tensor], batch: Any) -> None:
        """Find the prediction and its target by their shapes."""
        tensors = [t for t in tree_leaves(batch) if isinstance(t, Tensor)]
        targets = [t for t in reversed(tensors) if not t.is_floating_point()]
        for prediction in candidates:
            for target in targets:
                pair = matched(prediction, target)
                if pair is not None and pair[1].numel() and int(pair[1].max()) < pair[0].shape[1]:
                    look.prediction, look.target = prediction.detach(), target
                    look.logits, look.labels = pair
                    return
        for prediction in candidates:
            for target in [t for t in reversed(tensors[1:]) if t.is_floating_point()]:
                if prediction.numel() == target.numel() and len(prediction) == len(target):
                    look.prediction, look.target = prediction.detach(), target
                    return
        look.prediction = candidates[0].detach() if candidates else None

    @contextmanager
    def _evaluating(self) -> Any:
        training = [(m, m.training) for m in self._module.modules()]
        self._module.eval()
        try:
            yield
        finally:
            for m, was in training:
                m.training = was

    def _inputs(self, batch: Any) -> list[Tensor]:
        return [t for t in tree_leaves(batch) if isinstance(t, Tensor) and t is not self._first.target and t.ndim]

    def _with_inputs(self, change: Callable[[Tensor], Tensor]) -> Any:
        inputs = {id(t) for t in self._inputs(self._batch)}
        return tree_map(lambda t: change(t) if id(t) in inputs else t, self._batch)

    def _same_numbers(self, batch: Any) -> Tensor | None:
        state = global_state()
        prediction = self._look(batch).prediction
        set_global_state(state)
        return prediction

    # -- experiments ------------------------------------------------------------------------------------------------

    def ask(self, name: str, experiment: Callable[[], list[Check]]) -> list[Check]:
        """Run one experiment; where the model raises on it (a length of 0, a mask of zeros), nothing can be told."""
        try:
            return experiment()
        except Exception as error:
            return [Check(name, None, f"the model cannot be asked ({type(error).__name__}: {in_one_line(error)})")]
        finally:
            self._dry_run.restart()  # each one begins from the same state

    def initial_loss(self) -> list[Check]:
        """The first loss, and the shapes that go into it."""
        look = self._first
        if look.loss is None:
            return [Check("initial loss", None, "training_step returned None")]
        loss = self._dry_run.mean(look.loss)
        if look.logits is not None and look.labels is not None:
            classes = look.logits.shape[1]
            counts = counted(look.labels, classes)
            for _ in range(LABEL_BATCHES - 1):
                more = self._look_at_labels(self._dry_run.next_batch(), look)
                counts = counts if more is None else counts + counted(more, classes)
            return [sanity.initial_loss(loss, counts.tolist())]
        if look.prediction is not None and look.target is not None:
            wrong = sanity.broadcasts(look.prediction, look.target, loss)
            found = sanity.initial_regression(loss, look.target)
            return [found] if wrong is None else [found, wrong]
        finite = bool(torch.isfinite(torch.tensor(loss)))
        return [Check("initial loss", finite or False, f"{loss:.4g}; no labels were found to compare it with")]

    @staticmethod
    def _look_at_labels(batch: Any, like: Look) -> Tensor | None:
        assert like.target is not None
        for tensor in reversed([t for t in tree_leaves(batch) if isinstance(t, Tensor)]):
            if tensor.dtype == like.target.dtype and tensor.ndim == like.target.ndim:
                return tensor.reshape(-1).long()
        return None

    def input_matters(self) -> list[Check]:
        """Zero the input."""
        name = "inputs matter"
        if not self._inputs(self._batch):
            return [Check(name, None, "the batch holds inputs and labels in one tensor")]
        with self._evaluating():
            whole = self._same_numbers(self._batch)
            empty = self._same_numbers(self._with_inputs(torch.zeros_like))
        if whole is None or empty is None or whole.shape != empty.shape:
            return [Check(name, None, "no output of a module was seen")]
        change = float((whole - empty).abs().max()) / max(float(whole.abs().max()), 1e-12)
        return [sanity.input_matters(change)]

    def sample_independence(self) -> list[Check]:
        """Replace all samples but the first."""
        name = "samples do not leak"
        inputs = self._inputs(self._batch)
        size = max((len(t) for t in inputs), default=0)
        if size < 2:
            return [Check(name, None, "the batch holds one sample")]

        replaced = self._with_inputs(lambda t: torch.cat([t[:1], torch.zeros_like(t[1:])]) if len(t) == size else t)
        changes = []
        for evaluate in (True, False):
            if evaluate:
                with self._evaluating():
                    pair = self._same_numbers(self._batch), self._same_numbers(replaced)
            else:
                pair = self._same_numbers(self._batch), self._same_numbers(replaced)
            whole, other = pair
            if whole is None or other is None or len(whole) != size:
                return [Check(name, None, "no output with one row per sample was seen")]
            scale = max(float(whole.abs().max()), 1e-12)
            changes.append(float((whole[0] - other[0]).abs().max()) / scale)
        norms = [n for n, m in self._modules.items() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        return [sanity.independence(changes[0], changes[1], norms)]

    def gradients(self) -> list[Check]:
        """One backward pass: who takes part?"""
        look = self._look(self._batch, gradient=True)
        if look.loss is None or not look.loss.requires_grad:
            return [Check("all parameters learn", False, "the loss depends on no parameter", "do not detach it")]
        self._dry_run.backward(look.loss)
        names = parameter_names(self._module)
        held = {id(p) for o in self._optimizers for g in o.param_groups for p in g["params"]}
        named = [(names[id(p)], p) for p in self._module.parameters()]
        learning = [(n, p) for n, p in named if p.requires_grad]
        present = [(n, p) for n, p in learning if p.grad is not None]
        return [
            sanity.gradients_arrive(
                [n for n, p in learning if p.grad is None],
                [n for n, p in present if not bool(p.grad.to_dense().any())],  # type: ignore[union-attr]
                [n for n, p in named if not p.requires_grad],
                [n for n, p in present if id(p) not in held],
            )
        ]

    def units(self) -> list[Check]:
        """Layers that are dead or saturated before the first update."""
        stopped: list[tuple[str, str, float]] = []

        def seen(name: str, module: nn.Module, output: Any) -> None:
            tensor = next(iter(floating(output)), None)
            if tensor is None or tensor.ndim < 2:
                return
            bounds = next((b for b in _RANGES if isinstance(module, b[0])), None)
            rows = tensor.movedim(1, -1).flatten(0, -2) if tensor.ndim > 3 else tensor.flatten(0, -2)
            share = dead_share(rows.amax(0)) if bounds is None else saturated_share(tensor, bounds[1], bounds[2])
            if float(share) > 0.8:
                stopped.append((name, "dead" if bounds is None else "saturated", float(share)))

        kinds = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh)
        handles = [
            m.register_forward_hook(lambda module, args, out, n=name: seen(n, module, out))
            for name, m in self._modules.items()
            if isinstance(m, kinds)
        ]
        try:
            self._look(self._batch)
        finally:
            for handle in handles:
                handle.remove()
        return [sanity.units_live(stopped)] if handles else []

    def labels(self) -> list[Check]:
        """Do labels belong to inputs? Nearest neighbours first, a short training where they say nothing."""
        look = self._first
        inputs = self._inputs(self._batch)
        one_each = look.labels is not None and look.target is not None and look.target.ndim == 1 and bool(inputs)
        if not one_each or look.logits is None:
            return []
        self._dry_run.restart()
        rows: list[Tensor] = []
        labels: list[Tensor] = []
        while sum(len(t) for t in labels) < NEIGHBOURS and len(labels) < 64:
            batch = self._dry_run.next_batch()
            tensors = [t for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim]
            target = next((t for t in reversed(tensors) if t.dtype == look.target.dtype and t.ndim == 1), None)  # type: ignore[union-attr]
            source = next((t for t in tensors if t is not target and t.dtype == inputs[0].dtype), None)
            if target is None or source is None or len(source) != len(target):
                return []
            rows.append(source.flatten(1).float())
            labels.append(target.reshape(-1).long())
        z, share = sanity.neighbours_agree(torch.cat(rows)[:NEIGHBOURS], torch.cat(labels)[:NEIGHBOURS])
        z = self._dry_run.mean(torch.tensor(z, device=labels[0].device))
        skill = self._skill_on_unseen(look.logits.shape[1]) if z <= 3 else None
        return [sanity.labels_follow(z, share, skill)]

    def _skill_on_unseen(self, classes: int) -> float | None:
        """Train for a while on some batches of one pass over the data, and measure on others."""
        dry_run, batches = self._dry_run, self._dry_run.batches_per_epoch
        apart = min(4, int(batches // 4))
        if apart < 1:
            return None
        dry_run.restart()
        unseen = [dry_run.next_batch() for _ in range(apart)]
        dry_run.hold([dry_run.next_batch() for _ in range(min(UPDATES, int(min(batches, 1e6)) - apart))])
        for _ in range(2 * UPDATES):
            dry_run.update()
        with self._evaluating():
            looks = [self._look(batch) for batch in unseen]
        pairs = [(x.logits, x.labels) for x in looks if x.logits is not None and x.labels is not None]
        if not pairs:
            return None
        logits, labels = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
        share = counted(labels, classes) / len(labels)
        baseline = -(share * share.clamp(min=1e-12).log()).sum()
        loss = nn.functional.cross_entropy(logits.float(), labels, ignore_index=-100)
        return self._dry_run.mean(1 - loss / baseline.clamp(min=1e-12))

    def overfit_batch(self) -> list[Check]:
        """Train on one batch again and again, with the run's own optimizer and rate; then with larger rates."""
        rates = [[float(g["lr"]) for g in o.param_groups] for o in self._optimizers]
        check = self._overfitted(1.0, rates)
        if check.passed:
            return [check]
        for factor in (10.0, 100.0):
            try:
                again = self._overfitted(factor, rates)
            except Exception:  # the model refuses to compute with NaN: that rate is too large
                self._dry_run.restart()
                break
            if again.passed:
                fix = f"with {factor:g} times the learning rate it does ({again.evidence}): LRFinder()"
                return [Check(check.name, check.passed, check.evidence, fix)]
        return [check]

    def _overfitted(self, factor: float, rates: list[list[float]]) -> Check:
        dry_run = self._dry_run
        dry_run.restart()
        dry_run.hold([self._batch])
        dry_run.scale_rates(factor)
        losses = [loss for loss in (dry_run.update() for _ in range(UPDATES + 1)) if loss is not None]
        dry_run.restart()
        return sanity.overfits(losses, floor=min([0.0, *losses[:1]]) - (1.0 if losses and losses[0] <= 0 else 0.0))
