"""Notices a copy of a network that was to follow it and never does: a teacher, a target network, an average of weights.

A copy that is made before training holds random weights. One that still holds exactly these, well into the run, while
its original has learned, is of no use to anybody: the call that updates it is missing, its momentum is 1, or it was
made of another object. Copies of networks that were trained before may be meant to stand still, as those of
distillation are, and so may those whose name says it: the reference policy of preference optimisation.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_tricks.detection.watch import Watch
from lightning_tricks.diagnosis.course_probe import CourseProbe, total_of
from lightning_tricks.diagnosis.weights import as_initialised
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.names import plain_modules
from lightning_tricks.numerics.subset import subset

ASKED_AT = 0.6  # of the run: a target network that is renewed every so many updates was renewed by then
_STAYS = re.compile(r"(?:^|[._])(?:ref|reference|frozen|fixed|init|initial|prior|anchor|old)(?:$|[._])")
_SHOWN = 256  # weights of a matrix that are compared


class Copy(NamedTuple):
    """A module that began as a copy of one that is trained.

    Args:
        name: of the copy.
        original: name of the module that is trained.
        held: its largest weight.
        followed: the same weight of the original.
        before: some numbers of both, when training began.
    """

    name: str
    original: str
    held: Tensor
    followed: Tensor
    before: Tensor

    @property
    def stands_still(self) -> bool:
        """Whether it is as it was, and the original is not. A host read."""
        return torch.equal(_shown(self.held), self.before) and not torch.equal(_shown(self.followed), self.before)


def copies(root: nn.Module, trained: set[int]) -> list[Copy]:
    """Return the untrained copies of modules that are trained, the outermost ones; nothing where weights are sharded.

    Args:
        root: the LightningModule.
        trained: ids of the parameters that optimizers hold.

    >>> from copy import deepcopy
    >>> student = nn.Linear(8, 8)
    >>> root = nn.ModuleDict({"student": student, "teacher": deepcopy(student), "other": nn.Linear(8, 8)})
    >>> [(copy.name, copy.original) for copy in copies(root, {id(p) for p in student.parameters()})]
    [('teacher', 'student')]
    """
    shapes: dict[tuple[Any, ...], list[tuple[str, nn.Module]]] = {}
    for name, module in plain_modules(root).items():
        held = dict(module.named_parameters())
        if (
            name
            and not _STAYS.search(name)
            and any(p.ndim > 1 for p in held.values())
            and all(type(p) is nn.Parameter for p in held.values())
        ):
            shapes.setdefault(tuple((n, p.shape) for n, p in held.items()), []).append((name, module))
    found: list[Copy] = []
    for group in shapes.values():
        learning = [(n, m) for n, m in group if any(id(p) in trained for p in m.parameters())]
        resting = [(n, m) for n, m in group if not any(id(p) in trained for p in m.parameters())]
        for name, module in resting if learning else []:
            inside = any(name.startswith(f"{copy.name}.") for copy in found)
            original = None if inside or not _untrained(module) else _original(module, learning)
            if original is not None:
                found.append(_copy(name, module, *original))
    return found


def _untrained(module: nn.Module) -> bool:
    layers = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return all(as_initialised(layer) for layer in layers)


def _original(module: nn.Module, learning: list[tuple[str, nn.Module]]) -> tuple[str, nn.Module] | None:
    own = list(module.parameters())
    for name, other in learning:
        if all(torch.equal(a, b) for a, b in zip(own, other.parameters(), strict=True)):
            return name, other
    return None


def _copy(name: str, module: nn.Module, original: str, other: nn.Module) -> Copy:
    pairs = zip(module.parameters(), other.parameters(), strict=True)
    held, followed = max(pairs, key=lambda pair: pair[0].numel())
    return Copy(name, original, held, followed, _shown(held))


def _shown(weight: Tensor) -> Tensor:
    return subset(weight.detach().reshape(-1), _SHOWN).clone()


class StillCopies(Stages):
    """Looks once, at three fifths of the run, at copies that were found when it began.

    Args:
        watch: of the doctor; its alarm is called ``standstill``.
        probe: of the doctor, which is told their names.
    """

    def __init__(self, watch: Watch, probe: CourseProbe) -> None:
        self._watch, self._probe = watch, probe
        self._copies: list[Copy] = []

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Find them; in a run that goes on, weights are not those of the beginning any more."""
        held = {id(p) for view in run.views for g in view.optimizer.param_groups for p in g["params"]}
        self._copies = copies(run.trainer.lightning_module, held) if state is None else []
        run.dispatch.rest(self, "_transfer_started", when=not self._copies)

    def _transfer_started(self, run: TrainingRun) -> None:
        """Look, when it is time."""
        if not self._copies or run.clock.attempted(0) < ASKED_AT * total_of(self._watch.judge):
            return
        still, self._copies = [copy for copy in self._copies if copy.stands_still], []
        run.dispatch.rest(self, "_transfer_started")
        if still:
            holds = "holds the random weights that it began with"
            self._probe.still = "; ".join(f"{copy.name}, a copy of {copy.original}, {holds}" for copy in still[:3])
            self._watch.notice(run, "standstill", 0.0, {"copies": float(len(still))})

    def _cleanup(self, run: TrainingRun) -> None:
        """Hold no weights after the fit."""
        self._copies = []
