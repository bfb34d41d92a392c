"""The experiments of SanityCheck on a ``training_step`` that makes its own updates.

There are several losses, or none that is returned. What such a step does shows in the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightning_tricks.diagnosis import sanity_gradients
from lightning_tricks.diagnosis.examination import Examination, emptied, tensors_of
from lightning_tricks.diagnosis.experiments import says_nothing
from lightning_tricks.diagnosis.gradient_flow import MARK, Learning, in_graphs, left_out, mark_gradients
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.sanity_gradients import Gradients
from lightning_tricks.diagnosis.weights import parameters_as_new, trained_before
from lightning_tricks.dry_run.isolated import copied
from lightning_tricks.modules.selection import parameter_names
from lightning_tricks.numerics.trees import tree_map

STEPS = 12  # a generator may be updated at every fifth batch


def inputs(exam: Examination) -> list[Check]:
    """Whether the weights after some steps depend on what the batches hold."""
    name = "inputs matter"
    if exam.dry_run.steps.anywhere(all(says_nothing(t) for t in tensors_of(exam.batch))):
        return [Check(name, None, "the batch holds nothing that could")]
    changed = tree_map(lambda t: emptied(t) if isinstance(t, torch.Tensor) else t, exam.batch)
    before = _weights(exam.module)
    usual, other = (_weights_after(exam, batch) for batch in (exam.batch, changed))
    if exam.dry_run.steps.anywhere(not _differ(before, usual)):
        return [Check(name, None, f"no weight changes in {STEPS} steps")]
    if exam.dry_run.steps.anywhere(_differ(usual, other)):
        return [Check(name, True, "the updates depend on the batch")]
    if _satisfied(exam):
        return [Check(name, None, f"every gradient is 0 in {STEPS} steps")]
    seen = f"after {STEPS} steps the weights are the same with a batch of zeros"
    return [Check(name, False, seen, "look whether the batch reaches the model")]


def learning(exam: Examination) -> list[Check]:
    """Which parameters change in some steps, and whether their gradients are cleared."""
    name, anywhere = "all parameters learn", exam.dry_run.steps.anywhere
    seen = _learning_in_steps(exam)
    moved, held = seen.moved(), exam.held()
    names = parameter_names(exam.module)
    if anywhere(not moved & held) and _satisfied(exam):
        seen_zero = f"every gradient is 0 in {STEPS} steps, of a network that was trained before"
        return [Check(name, None, seen_zero, "nothing to learn, or a factor of 0 in the loss?")]
    if anywhere(not moved & held):
        rates = [float(g["lr"]) for o in exam.optimizers for g in o.param_groups]
        fix = "call self.manual_backward(loss) and step() of the optimizers that self.optimizers() returns"
        return [Check(name, None if not any(rates) else False, f"no parameter changes in {STEPS} steps", fix)]
    outside = [p for p in seen.parameters if id(p) in seen.alive and id(p) not in held and id(p) not in moved]
    whole = left_out(exam, outside, held)
    found = Gradients(
        frozen=tuple(names[id(p)] for p in exam.module.parameters() if not p.requires_grad),
        forgotten=tuple(names[id(p)] for p in outside if id(p) not in whole),
        left_out=tuple(names[id(p)] for p in outside if id(p) in whole),
        kept=_kept(exam, [p for p in seen.parameters if id(p) in seen.present & held]),
    )
    check = sanity_gradients.gradients_arrive(found)
    still = [p for p in seen.parameters if id(p) in held and id(p) not in moved]
    cut = _cut_off(exam, [p for p in still if id(p) not in seen.present], moved) if anywhere(bool(still)) else []
    if check.passed and cut:
        return [sanity_gradients.are_cut_off([names[id(p)] for p in cut], STEPS)]
    if check.passed and still:
        return [sanity_gradients.do_not_move([names[id(p)] for p in still], STEPS)]
    return [check]


def _learning_in_steps(exam: Examination) -> Learning:
    """Make some steps from where the dry run began; return what the parameters did in them."""
    exam.dry_run.restart()
    seen = Learning([p for p in exam.module.parameters() if p.requires_grad])
    for _ in range(STEPS):
        exam.dry_run.update()
    return seen


def _cut_off(exam: Examination, without: list[nn.Parameter], moved: set[int]) -> list[nn.Parameter]:
    """Return the parameters without gradients that should have one: their layers are called, and are as new ones are.

    That of an optimizer that moves others; a network whose turn comes later has one of its own.

    Args:
        exam: the examination; its dry run starts again.
        without: parameters that get no gradient in some steps.
        moved: ids of the parameters that these steps change.
    """
    exam.dry_run.restart()
    untrained = parameters_as_new(exam.modules.values())
    groups = [[id(p) for g in o.param_groups for p in g["params"]] for o in exam.optimizers]
    beside = {i for ids in groups if moved.intersection(ids) for i in ids}
    with in_graphs(exam) as graphs:
        exam.dry_run.update()
    return [p for p in without if id(p) in untrained & beside & graphs]


def _satisfied(exam: Examination) -> bool:
    """Whether gradients arrive in some steps and all of them are 0, of a network that was trained before.

    So they are where nothing is left to learn: every margin is kept, every target met.
    """
    exam.dry_run.restart()
    trained = trained_before(exam.module)
    seen, held = _learning_in_steps(exam), exam.held()
    return not exam.dry_run.steps.anywhere(not (trained and seen.present & held) or bool(seen.alive))


def _kept(exam: Examination, learns: list[nn.Parameter]) -> bool:
    """Whether no gradient is cleared in some steps.

    Args:
        exam: the examination; its dry run starts again.
        learns: parameters that an optimizer holds, and that have gradients.
    """
    exam.dry_run.restart()
    exam.dry_run.update()
    marked = mark_gradients(learns)
    for _ in range(STEPS):
        exam.dry_run.update()
    left = [p.grad for p in marked if p.grad is not None]
    kept = bool(left) and len(left) == len(marked) and all(bool((t.abs() > 0.5 * MARK).all()) for t in left)
    return exam.dry_run.steps.anywhere(kept)


def _weights_after(exam: Examination, batch: Any) -> list[torch.Tensor]:
    """Return copies of the weights after some steps on one batch, from the state with which the dry run began."""
    exam.dry_run.restart()
    for _ in range(STEPS):
        exam.dry_run.steps.update(lambda: tree_map(copied, batch))
    return _weights(exam.module)


def _weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters() if p.requires_grad]


def _differ(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Whether any weight differs; NaN is like NaN."""
    return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(left, right, strict=True))
