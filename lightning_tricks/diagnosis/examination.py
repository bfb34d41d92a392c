"""A module under examination: looks at it in a dry run, and what each tensor of its batch is for.

The experiments of SanityCheck are in ``experiments.py``, the files ``*_experiments.py``, ``gradient_flow.py`` and
``partners.py``; what they mean is in ``sanity.py``, ``first_loss.py``, ``one_batch.py`` and ``sanity_data.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.diagnosis.loss_calls import LossCall, LossCalls
from lightning_tricks.diagnosis.recognition import (
    Recognised,
    alike,
    autoregressive,
    class_pair,
    other_values,
    recognised,
)
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.dry_run.training_step import loss_of
from lightning_tricks.errors import shortened
from lightning_tricks.modules.names import in_compiled_graphs, plain_modules
from lightning_tricks.modules.replaced import Hook, replaced
from lightning_tricks.modules.trace import floating
from lightning_tricks.numerics.torch_internals import LOSS
from lightning_tricks.numerics.trees import tree_leaves, tree_map

UPDATES_BEFORE_ASKING = 5  # zero-initialised heads, LoRA and ReZero have gradients and depend on inputs by then
MOST_TENSORS = 12  # of a batch that are asked for their roles, in one forward pass or two each
MOST_UNUSED = 2  # of these that are asked again after some updates
MOST_PREDICTIONS = 24  # outputs from which the loss may have been computed


@dataclass
class Look:
    """One forward pass.

    Args:
        loss: 0-d, or None.
        outputs: of modules with parameters, in the order in which they ended.
        candidates: what may be the prediction: returned tensors, then outputs of modules, the last ones first.
        keys: where each candidate comes from: module and number of the call.
        tracked: the candidates with their graph, where a gradient was asked for.
        found: the pair from which the loss was computed, where it was recognised.
        at: position of the prediction among the candidates.
        target: of that prediction, in the memory of a tensor of the batch; None where none is known.
        sequence: the tensor of the batch whose next elements are predicted.
        logits, labels: of that pair, for classes.
    """

    loss: Tensor | None
    outputs: list[Tensor] = field(default_factory=list)
    candidates: list[Tensor] = field(default_factory=list)
    keys: list[tuple[str, int]] = field(default_factory=list)
    tracked: list[Tensor] = field(default_factory=list)
    found: Recognised | None = None
    at: int | None = None
    target: Tensor | None = None
    sequence: Tensor | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None

    def output(self, key: tuple[str, int] | None, *, tracked: bool = False) -> Tensor | None:
        """Return the candidate of a key, with its graph where that is asked for; None where this pass has none."""
        outputs = self.tracked if tracked else self.candidates
        return next((t for k, t in zip(self.keys, outputs, strict=True) if k == key), None)

    @property
    def key(self) -> tuple[str, int] | None:
        """Where the prediction comes from."""
        return None if self.at is None else self.keys[self.at]

    @property
    def prediction(self) -> Tensor | None:
        """The output that seems to be the prediction."""
        return None if self.at is None else self.candidates[self.at]


class Examination:
    """Looks at a module in a dry run.

    Args:
        dry_run: a dry_run that has been entered.
        module: the LightningModule.
        optimizers: all of the run.
    """

    def __init__(self, dry_run: DryRun, module: nn.Module, optimizers: list[Any]) -> None:
        self.dry_run, self.module, self.optimizers = dry_run, module, optimizers
        hidden = in_compiled_graphs(module)
        self.compiled = bool(hidden)
        self.modules = {n: m for n, m in plain_modules(module).items() if id(m) not in hidden}
        self.batch = dry_run.data.next_batch()
        self.roles: dict[int, str] = {}
        self.roles = self._found_roles()
        self.first = self.look(self.batch)
        self._first_calls: list[LossCall] | None = None

    # -- looking ----------------------------------------------------------------------------------------------------

    def look(self, batch: Any, *, gradient: bool = False, inputs: bool = False) -> Look:
        """Run ``training_step`` on a batch once, and find the prediction and its target.

        Args:
            batch: what is looked at.
            gradient: keep the graph.
            inputs: give the step the tensors themselves, so that gradients arrive at them; else copies.
        """
        ended: list[tuple[str, Tensor]] = []
        learns = {n: any(True for _ in m.parameters()) for n, m in self.modules.items()}
        targets = self.possible_targets(batch)[0] if self.roles else []
        criteria: set[str] = set()

        def note(name: str, output: Any) -> None:
            ended.extend((name, t) for t in [t for t in floating(output) if t.ndim][:1])

        def meet(name: str, given: list[Tensor]) -> None:
            # (what takes the labels alone may be the whole model, which returns its loss as those of transformers do)
            returned = {t.data_ptr() for _, t in ended}
            if name and any(t.data_ptr() in returned for t in given) and any(_in(t, targets) for t in given):
                criteria.add(name)

        models = {name: m for name, m in self.modules.items() if not _measures(m)}
        handles = [
            m.register_forward_hook(Hook(lambda _, args, out, n=name: note(n, out))) for name, m in models.items()
        ]
        handles += [
            m.register_forward_pre_hook(
                Hook(lambda _, args, kw, n=name: meet(n, tensors_of((args, kw)))), with_kwargs=True
            )
            for name, m in models.items()
        ]
        try:
            with torch.enable_grad() if gradient else self.dry_run.looking():
                result = self.dry_run.output(batch, tracked=inputs)
        finally:
            for handle in handles:
                handle.remove()
        # what a criterion returns, and what its parts do (a matrix of distances), is not an output of the model
        ended = [(n, t) for n, t in ended if not any(n == c or n.startswith(f"{c}.") for c in criteria)]
        look = Look(loss_of(result), [t.detach() for name, t in ended if learns[name]])
        named = [v for k, v in result.items() if k != "loss"] if isinstance(result, Mapping) else []
        returned = [("", t) for t in floating(named) if t.ndim and not _in(t, batch)]
        calls: Counter[str] = Counter()
        distinct: dict[int, tuple[tuple[str, int], Tensor]] = {}
        for name, t in [*returned, *reversed(ended)]:
            calls[name] += 1
            distinct.setdefault(id(t), ((name, calls[name]), t))
        look.keys = [key for key, _ in distinct.values()]
        look.tracked = [t for _, t in distinct.values()] if gradient else []
        look.candidates = [t.detach() for _, t in distinct.values()]
        self._pair(look, batch)
        return look

    def _pair(self, look: Look, batch: Any) -> None:
        """Find the prediction and its target: by the value of the loss, else by what the batch's tensors are for."""
        targets, known = self.possible_targets(batch)
        candidates = look.candidates[:MOST_PREDICTIONS]
        loss = None if look.loss is None else float(look.loss.detach().float().mean())
        look.found = None if loss is None else recognised(loss, candidates, targets)
        if look.found is None and loss is not None:
            for sequence in [*targets, *self._other_tensors(batch, targets)]:
                look.found = autoregressive(loss, candidates, sequence)
                if look.found is not None:
                    look.sequence = sequence
                    break
        if look.found is not None:
            memory = look.found.prediction.data_ptr()  # (the pair may be made of views)
            look.at = next((i for i, t in enumerate(candidates) if t.data_ptr() == memory), None)
            look.target, look.logits, look.labels = look.found.target, look.found.logits, look.found.labels
            return
        look.at = 0 if candidates else None
        for i, prediction in enumerate(candidates if known else []):
            for target in [t for t in targets if not t.is_floating_point()]:
                pair = class_pair(prediction, target)
                if pair is not None:
                    look.at, look.target, (look.logits, look.labels) = i, target, pair
                    return
        for i, prediction in enumerate(candidates if known else []):
            for target in [t for t in targets if t.is_floating_point() and t.ndim]:
                if prediction.numel() == target.numel() and len(prediction) == len(target):
                    look.at, look.target = i, target
                    return

    def look_again(self, batch: Any, *, evaluate: bool, updates: int = 0, shifted: bool = False) -> Look:
        """Look at a batch from the state, and with the numbers, with which the dry run began.

        A module may have a memory, so that one look changes the next.

        Args:
            batch: what is looked at.
            evaluate: in eval mode.
            updates: made before it.
            shifted: with other random numbers, after the updates.
        """
        self.dry_run.restart(updates)
        if shifted:
            for device in {t.device for t in tensors_of(batch)}:
                torch.rand(7, device=device)
        with self.evaluating() if evaluate else nullcontext():
            return self.look(batch)

    def prediction(
        self, batch: Any, *, evaluate: bool, updates: int = 0, shifted: bool = False
    ) -> tuple[Tensor | None, float | None]:
        """Return the prediction and the loss of ``look_again``, with the same arguments."""
        look = self.look_again(batch, evaluate=evaluate, updates=updates, shifted=shifted)
        loss = None if look.loss is None else self.dry_run.steps.mean(look.loss)
        return look.output(self.first.key), loss

    def first_calls(self) -> list[LossCall]:
        """Return what the step gives to loss functions for the first batch, from the beginning; looked at once."""
        if self._first_calls is None:
            self.dry_run.restart()
            self._first_calls = [call for calls in self.loss_calls([self.batch]) for call in calls]
        return self._first_calls

    def loss_calls(self, batches: Sequence[Any]) -> list[list[LossCall]]:
        """Return what the step gives to loss functions, batch by batch; nothing where parts of the model are compiled.

        Args:
            batches: one after the other, from where the dry run is.
        """
        found = []
        for batch in [] if self.compiled else batches:
            with LossCalls() as calls, self.dry_run.looking():
                self.dry_run.output(batch)
            found.append(calls.found)
        return found

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put all modules in eval mode meanwhile; hooks of the module that set it back to training mode do not."""
        training = [(m, m.training) for m in self.module.modules()]
        self.module.eval()
        stays = [replaced(m, "train", _as_it_is(m)) for m, _ in training]
        try:
            yield
        finally:
            for put_back in stays:
                put_back()
            for m, was in training:
                m.training = was

    # -- what each tensor of a batch is for -------------------------------------------------------------------------

    def _found_roles(self) -> dict[int, str]:
        """Ask the model what each tensor of a batch is for: {position: role}; nothing where it cannot be told.

        It gets other values. ``"input"``: an output of a module changes. ``"target"``: only the loss does.
        ``"unused"``: neither does. Names and types say less: a batch may hold its labels anywhere.
        """
        tensors = tensors_of(self.batch)
        if len(tensors) > MOST_TENSORS:
            return {}
        usual = self._answer(self.batch)
        found = {i: self._role(usual, t) for i, t in enumerate(tensors)} if usual is not None else {}
        # (the loss of outputs that are all the same, of a head that begins at zero, depends on no label yet)
        unused = [i for i, role in found.items() if role == "unused"]
        if unused and len(unused) <= MOST_UNUSED:
            later = self._answer(self.batch, UPDATES_BEFORE_ASKING)
            if later is not None:
                found.update({i: self._role(later, tensors[i], UPDATES_BEFORE_ASKING) for i in unused})
        self.dry_run.restart()
        self.dry_run.data.next_batch()  # (the batch that is looked at was the first)
        return {position: role for position, role in found.items() if role is not None}

    def _role(self, usual: tuple[list[Tensor], list[Tensor]], tensor: Tensor, updates: int = 0) -> str | None:
        used, asked = False, False
        for other in other_values(tensor):
            answer = self._answer(tree_map(lambda t, new=other: new if t is tensor else t, self.batch), updates)
            if answer is None:  # (not even the model takes it for what it was: lengths, indices)
                continue
            outputs, losses = (not alike(a, b) for a, b in zip(usual, answer, strict=True))
            # (on several processes, rows that are all alike on one of them tell nothing there)
            if self.dry_run.steps.anywhere(outputs):
                return "input"
            asked, used = True, self.dry_run.steps.anywhere(losses) or used
        return ("target" if used else "unused") if asked else None

    def _answer(self, batch: Any, updates: int = 0) -> tuple[list[Tensor], list[Tensor]] | None:
        """Return outputs and loss from the state, and with the numbers, with which the dry run began."""
        self.dry_run.restart()
        try:
            for _ in range(updates):
                self.dry_run.update()
            look = self.look(batch)
        except Exception:
            return None
        return look.outputs, [] if look.loss is None else [look.loss.detach()]

    def possible_targets(self, batch: Any) -> tuple[list[Tensor], bool]:
        """Return the targets of a batch, the last first, and True; without any, what may be one, and False."""
        tensors = tensors_of(batch)
        targets = [t for i, t in enumerate(tensors) if self.roles.get(i) == "target"]
        return (targets or [t for i, t in enumerate(tensors) if self.roles.get(i) != "unused"])[::-1], bool(targets)

    def _other_tensors(self, batch: Any, targets: list[Tensor]) -> list[Tensor]:
        return [t for t in tensors_of(batch) if all(t is not target for target in targets)]

    def inputs(self, batch: Any) -> list[Tensor]:
        """Return the tensors of a batch that may be inputs."""
        # (a target may be an input as well: of an autoencoder, of a language model)
        targets = {self.target_at} if self.first.sequence is None else set()
        told = self.roles.get
        asked = [t for i, t in enumerate(tensors_of(batch)) if told(i, "target" if i in targets else "") != "target"]
        return [t for t in asked if t.ndim]

    @property
    def target_at(self) -> int | None:
        """Position of the target among the tensors of a batch."""
        if self.first.target is None:
            return None
        tensor = self.first.target if self.first.sequence is None else self.first.sequence
        return next((i for i, t in enumerate(tensors_of(self.batch)) if t.data_ptr() == tensor.data_ptr()), None)

    def with_inputs(self, change: Callable[[Tensor], Tensor]) -> Any:
        """Return the batch with its inputs changed."""
        inputs = {id(t) for t in self.inputs(self.batch)}
        return tree_map(lambda t: change(t) if id(t) in inputs else t, self.batch)

    def held(self) -> set[int]:
        """Return the ids of all parameters that an optimizer holds."""
        return {id(p) for o in self.optimizers for g in o.param_groups for p in g["params"]}

    # -- asking -----------------------------------------------------------------------------------------------------

    def ask(self, name: str, experiment: Callable[[Examination], list[Check]]) -> list[Check]:
        """Run one experiment; where the model raises on it (a length of 0, a mask of zeros), nothing can be told."""
        try:
            return experiment(self)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            told = f"{type(error).__name__}: {shortened(lines[-1].strip())}"
            return [Check(name, None, f"the model cannot be asked ({told})")]
        finally:
            self.dry_run.restart()  # each one begins from the same state


def tensors_of(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch, in the order in which a tree of it has them."""
    return [t for t in tree_leaves(batch) if isinstance(t, Tensor)]


def _in(tensor: Tensor, batch: Any) -> bool:
    """Whether a tensor is one of the batch's: what a step hands through is not a prediction."""
    alike = [t for t in tensors_of(batch) if t.shape == tensor.shape]
    return any(bool((t == tensor.detach()).all()) for t in alike)


def _measures(module: nn.Module) -> bool:
    """Whether a module compares a prediction with a target: what it returns is not an output of the model."""
    names = {cls.__module__.split(".")[0] for cls in type(module).__mro__}
    return isinstance(module, LOSS) or "torchmetrics" in names


def emptied(tensor: Tensor) -> Tensor:
    """Return zeros of the same form; ones for what is 0 throughout.

    >>> emptied(torch.tensor([3, 0])), emptied(torch.zeros(1))
    (tensor([0, 0]), tensor([1.]))
    """
    return torch.zeros_like(tensor) if bool((tensor != 0).any()) else torch.ones_like(tensor)


def _as_it_is(module: nn.Module) -> Callable[..., nn.Module]:
    """Return what takes the place of ``module.train``: the mode stays."""

    def train(mode: bool = True) -> nn.Module:
        return module

    return train
