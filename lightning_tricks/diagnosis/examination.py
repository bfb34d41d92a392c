"""The experiments of SanityCheck, in a dry_run training that leaves no trace. What they mean is in ``sanity.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import in_one_line
from lightning_tricks.measure.labels import counted, counts, matched
from lightning_tricks.measure.units import dead_share, saturated_share
from lightning_tricks.runtime.modules import in_compiled_graphs, plain_modules
from lightning_tricks.runtime.replaced import Hook
from lightning_tricks.runtime.selection import parameter_names
from lightning_tricks.runtime.trace import floating

UPDATES = 60
LABEL_BATCHES = 8
_LEFT_OUT = -100  # what all negative labels become: each training marks with another number what it leaves out
NEIGHBOURS = 512
NO_INPUT = "no tensor of the batch was found that is an input and not a label"
MOST_TENSORS = 12  # of a batch that are asked for their roles, in one forward pass or two each
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
        self._roles: dict[int, str] = {}
        self._roles = self._found_roles()
        self._first = self._look(self._batch)

    # -- looking ----------------------------------------------------------------------------------------------------

    def _look(self, batch: Any, *, gradient: bool = False) -> Look:
        outputs: list[Tensor] = []
        leaves = [m for m in self._modules.values() if not any(m.children()) and not _measures(m)]
        handles = [
            m.register_forward_hook(Hook(lambda _, args, out: outputs.extend(floating(out)[:1]))) for m in leaves
        ]
        try:
            with torch.enable_grad() if gradient else self._dry_run.looking():
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
        """Find the prediction and its target by their shapes, among the tensors that can be a target."""
        tensors, known = self._possible_targets(batch)
        targets = [t for t in reversed(tensors) if not t.is_floating_point()]
        for prediction in candidates:
            for target in targets:
                pair = matched(prediction, target)
                if pair is None and known and target.ndim > 1:  # labels as a column
                    pair = matched(prediction, target.squeeze(-1))
                if pair is not None and pair[1].numel() and int(pair[1].max()) < pair[0].shape[1]:
                    look.prediction, look.target = prediction.detach(), target
                    look.logits = pair[0]
                    look.labels = torch.where(counts(pair[1]), pair[1], _LEFT_OUT)
                    return
        for prediction in candidates:
            for target in [t for t in reversed(tensors) if t.is_floating_point()]:
                if prediction.numel() == target.numel() and len(prediction) == len(target):
                    look.prediction, look.target = prediction.detach(), target
                    return
        look.prediction = candidates[0].detach() if candidates else None

    def _found_roles(self) -> dict[int, str]:
        """Ask the model what each tensor of a batch is for: {position: role}; nothing where it cannot be told.

        It gets other values. ``"input"``: an output of a module changes. ``"target"``: only the loss does.
        ``"unused"``: neither does. Names and types say less: a batch may hold its labels anywhere.
        """
        tensors = [t for t in tree_leaves(self._batch) if isinstance(t, Tensor)]
        if len(tensors) > MOST_TENSORS:
            return {}
        usual = self._answer(self._batch)
        found = {i: self._role(usual, t) for i, t in enumerate(tensors)} if usual is not None else {}
        self._dry_run.restart()
        self._dry_run.next_batch()  # (the batch that is looked at was the first)
        return {position: role for position, role in found.items() if role is not None}

    def _role(self, usual: tuple[list[Tensor], list[Tensor]], tensor: Tensor) -> str | None:
        used, asked = False, False
        for other in _others(tensor):
            answer = self._answer(tree_map(lambda t, new=other: new if t is tensor else t, self._batch))
            if answer is None:  # (not even the model takes it for what it was: lengths, indices)
                continue
            outputs, losses = (not _alike(a, b) for a, b in zip(usual, answer, strict=True))
            # (on several processes, rows that are all alike on one of them tell nothing there)
            if self._dry_run.anywhere(outputs):
                return "input"
            asked, used = True, self._dry_run.anywhere(losses) or used
        return ("target" if used else "unused") if asked else None

    def _answer(self, batch: Any) -> tuple[list[Tensor], list[Tensor]] | None:
        """Return outputs and loss from the state, and with the numbers, with which the dry run began."""
        self._dry_run.restart()
        try:
            look = self._look(batch)
        except Exception:
            return None
        losses = [] if look.loss is None else [look.loss.detach()]
        return [t for t in look.outputs if t.ndim], losses

    def _possible_targets(self, batch: Any) -> tuple[list[Tensor], bool]:
        """Return the targets of a batch and True; without any, what may be one beside being an input, and False."""
        tensors = [t for t in tree_leaves(batch) if isinstance(t, Tensor)]
        targets = [t for i, t in enumerate(tensors) if self._roles.get(i) == "target"]
        return targets or [t for i, t in enumerate(tensors) if self._roles.get(i) != "unused"], bool(targets)

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
        tensors = [t for t in tree_leaves(batch) if isinstance(t, Tensor)]
        asked = [t for i, t in enumerate(tensors) if self._roles.get(i) != "target"]
        return [t for t in asked if t is not self._first.target and t.ndim]

    def _with_inputs(self, change: Callable[[Tensor], Tensor]) -> Any:
        inputs = {id(t) for t in self._inputs(self._batch)}
        return tree_map(lambda t: change(t) if id(t) in inputs else t, self._batch)

    def _prediction(self, batch: Any, *, evaluate: bool) -> Tensor | None:
        """Ask from the state, and with the numbers, with which the dry run began: a module may have a memory."""
        self._dry_run.restart()
        with self._evaluating() if evaluate else nullcontext():
            return self._look(batch).prediction

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
            occurrences = counted(look.labels, classes)
            for _ in range(LABEL_BATCHES - 1):
                more = self._look_at_labels(self._dry_run.next_batch(), look)
                occurrences = occurrences if more is None else occurrences + counted(more, classes)
            entropy = nn.functional.cross_entropy(look.logits.float(), look.labels, ignore_index=_LEFT_OUT)
            return [sanity.initial_loss(loss, occurrences.tolist(), self._dry_run.mean(entropy))]
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
            return [Check(name, None, NO_INPUT)]
        whole = self._prediction(self._batch, evaluate=True)
        empty = self._prediction(self._with_inputs(torch.zeros_like), evaluate=True)
        if whole is None or empty is None or whole.shape != empty.shape:
            return [Check(name, None, "no output of a module was seen")]
        change = float((whole - empty).abs().max()) / max(float(whole.abs().max()), 1e-12)
        return [sanity.input_matters(change)]

    def sample_independence(self) -> list[Check]:
        """Replace all samples but the first, and look at the row of the output that belongs to it."""
        name = "samples do not leak"
        inputs = self._inputs(self._batch)
        size = max((len(t) for t in inputs), default=0)
        if size < 2:
            return [Check(name, None, "the batch holds one sample" if inputs else NO_INPUT)]

        replaced = self._with_inputs(lambda t: torch.cat([t[:1], torch.zeros_like(t[1:])]) if len(t) == size else t)
        without = self._with_inputs(lambda t: torch.cat([torch.zeros_like(t[:1]), t[1:]]) if len(t) == size else t)
        changes = []
        for evaluate in (True, False):
            seen = [self._prediction(batch, evaluate=evaluate) for batch in (self._batch, replaced, without)]
            whole, other, others = seen
            if whole is None or other is None or others is None or len(whole) != size:
                return [Check(name, None, "no output with one row per sample was seen")]
            scale = max(float(whole.abs().max()), 1e-12)
            # (a module may shuffle the batch: the row of the first sample is the one that changes with it)
            row = int((whole - others).abs().flatten(1).amax(1).argmax())
            changes.append(float((whole[row] - other[row]).abs().max()) / scale)
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
            m.register_forward_hook(Hook(lambda module, args, out, n=name: seen(n, module, out)))
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
        share = counted(labels, classes) / counts(labels).sum()
        baseline = -(share * share.clamp(min=1e-12).log()).sum()
        loss = nn.functional.cross_entropy(logits.float(), labels, ignore_index=_LEFT_OUT)
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


def _measures(module: nn.Module) -> bool:
    """Whether a module compares a prediction with a target: what it returns is no output of the model."""
    names = {cls.__module__.split(".")[0] for cls in type(module).__mro__}
    return isinstance(module, nn.modules.loss._Loss) or "torchmetrics" in names


def _others(tensor: Tensor) -> list[Tensor]:
    """Return tensors of other values: the same rows in another order, and nothing but zeros, or ones."""
    constant = torch.zeros_like(tensor) if bool((tensor != 0).any()) else torch.ones_like(tensor)
    rolled = tensor.roll(1, 0) if tensor.ndim else tensor
    return [constant] if torch.equal(rolled, tensor) else [rolled, constant]


def _alike(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two answers are the same, up to what a device computes differently from call to call."""
    if [t.shape for t in left] != [t.shape for t in right]:
        return False
    pairs = [(a.float(), b.float()) for a, b in zip(left, right, strict=True) if a.numel()]
    scales = [float(a.abs().nan_to_num().amax()) for a, _ in pairs]
    return all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-6 * scale, equal_nan=True)
        for (a, b), scale in zip(pairs, scales, strict=True)
    )
