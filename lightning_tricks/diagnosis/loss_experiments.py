"""The experiments of SanityCheck on the loss: its first value, and updates on one batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.diagnosis import first_loss, loss_arguments, one_batch, sanity
from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.one_batch import Trial
from lightning_tricks.diagnosis.partners import outputs_meet, partners
from lightning_tricks.diagnosis.recognition import LEFT_OUT, broadcast, reversed_risk
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.labels import counted, counts
from lightning_tricks.numerics.trees import tree_map
from lightning_tricks.optimizer_step.scheduled_rates import multiply_rates

UPDATES, UPDATES_AT_OTHER_RATES, UPDATES_TO_RECOVER = 40, 15, 15
LABEL_BATCHES = 8
_COLUMNS = 2  # times as many as there are classes


# -- the first loss ---------------------------------------------------------------------------------------------------


def initial_loss(exam: Examination) -> list[Check]:
    """Look at the value of the first loss, and where that is as it should be, at what loss functions are given."""
    found = _first_value(exam)
    # (looked at on all processes, whatever each of them has found: a step may wait for the others)
    wrong = loss_arguments.misused(exam.first_calls())
    if exam.dry_run.steps.anywhere(any(check.passed is False for check in found)):
        return found
    return found if wrong is None or wrong.name != loss_arguments.VALUES else [wrong]


def _first_value(exam: Examination) -> list[Check]:
    """Compare the first loss with that of knowing nothing, where it is known which loss it is."""
    look, dry_run = exam.first, exam.dry_run
    if look.loss is None:
        return [Check("initial loss", None, "training_step returned None")]
    loss = dry_run.steps.mean(look.loss)
    if not math.isfinite(loss) and look.labels is None and _nothing_counts(exam):
        return [Check("initial loss", None, f"{loss:.4g}; no label of the first batch counts")]
    if not math.isfinite(loss):
        fix = "look at the first batch and the loss function: NaN, inf, log(0)"
        return [Check("initial loss", False, f"it is {loss}", fix)]
    found = look.found
    if found is not None and not dry_run.steps.anywhere(exam.first.found is None):
        if found.twice:
            return [first_loss.applied_twice(loss, found.twice)]
        if found.factor != 1:
            falls = found.factor < 0 or _falls(exam, 1.0)
            return [first_loss.wrong_factor(loss, found.kind, found.factor, falls)]
        if found.logits is not None:
            occurrences = _occurrences(exam, found.logits.shape[1])
            check = first_loss.initial_loss(loss, occurrences)
            if dry_run.steps.anywhere(check.passed is False):
                check = first_loss.initial_loss(loss, occurrences, recovers=_falls(exam, 0.95, one=True))
            return [check]
        if found.kind == "squared error":
            size = float(found.prediction.float().square().mean().sqrt())
            return [first_loss.initial_regression(loss, found.target, size, _falls(exam, 0.99, one=True))]
        return [Check("initial loss", True, f"{loss:.4g}; a {found.kind}")]
    if dry_run.steps.anywhere(reversed_risk(float(look.loss.detach()), look.candidates, tensors_of(exam.batch))):
        return [first_loss.risk_reversed(loss)]
    check = Check("initial loss", True, f"{loss:.4g}; no labels were found to compare it with")
    if look.labels is not None and look.logits is not None:
        entropy = nn.functional.cross_entropy(look.logits, look.labels, ignore_index=LEFT_OUT)
        seen = f"{loss:.4g}; the cross entropy of outputs and labels is {float(entropy):.4g}"
        # (an embedding has more columns than there are classes, and its entropy says nothing)
        seen_classes = sum(n > 0 for n in _occurrences(exam, look.logits.shape[1]))
        if look.logits.shape[1] <= _COLUMNS * seen_classes:
            check = Check("initial loss", None, seen, "the loss holds something else too")
    return [check]


def _nothing_counts(exam: Examination) -> bool:
    targets, _ = exam.possible_targets(exam.batch)
    return any(not t.is_floating_point() and t.numel() and not bool(counts(t).any()) for t in targets)


def _occurrences(exam: Examination, classes: int) -> list[float]:
    """Count the labels of some batches."""
    assert exam.first.labels is not None
    occurrences, at = counted(exam.first.labels, classes), exam.target_at
    for _ in range(LABEL_BATCHES - 1):
        tensors = tensors_of(exam.dry_run.data.next_batch())
        if at is not None and at < len(tensors):
            labels = tensors[at].reshape(-1).round().long()
            occurrences += counted(torch.where(labels < classes, labels, LEFT_OUT), classes)
    return [float(n) for n in occurrences.tolist()]


def _falls(exam: Examination, share: float, *, one: bool = False) -> bool:
    """Whether some updates, as in training or on one batch, bring the loss below a share of what it was."""
    exam.dry_run.restart()
    if one:
        exam.dry_run.data.hold([exam.batch])
    losses = [loss for loss in (exam.dry_run.update() for _ in range(UPDATES_TO_RECOVER)) if loss is not None]
    exam.dry_run.restart()
    # (the median of three, since batches differ)
    last = losses[-3:]
    return bool(last) and all(map(math.isfinite, losses)) and sorted(last)[len(last) // 2] < share * losses[0]


def shapes(exam: Examination) -> list[Check]:
    """Let targets change places: the loss of a broadcast, ``[n, 1]`` against ``[n]``, stays as it is.

    So does a distance of two distributions, where outputs say what the gradients of others are.
    """
    found = partners(exam)
    if not found and exam.first.found is None:
        found = _invariant_pairing(exam) or _given_shapes(exam)
    several = exam.dry_run.steps.anywhere(bool(found))
    return [] if several and exam.dry_run.steps.anywhere(outputs_meet(exam)) else found


def _given_shapes(exam: Examination) -> list[Check]:
    """Look at the shapes that loss functions are given, of whatever is made inside the step."""
    broadcasts = loss_arguments.misused(exam.first_calls())
    return [broadcasts] if broadcasts is not None and broadcasts.name == loss_arguments.SHAPES else []


def _invariant_pairing(exam: Examination) -> list[Check]:
    """Let targets change places: a loss that stays as it is compares each output with each target."""
    look, at = exam.first, exam.target_at
    prediction, target = look.prediction, look.target
    if prediction is None or target is None or at is None:
        return []
    # (a step may use a column of the target: then the value of the loss tells that it was broadcast)
    each = prediction.numel() == target.numel() == len(target) and look.loss is not None
    told = prediction.shape != target.shape or (each and broadcast(float(look.loss.detach()), prediction, target))  # type: ignore[union-attr]
    same = prediction.numel() == target.numel() and told
    if not same or len(target) < 2 or float(prediction.float().std()) == 0 or bool((target == target[:1]).all()):
        return []
    if exam.roles and "input" not in exam.roles.values():
        return []  # outputs that are made of noise, or at the nodes of a quadrature, belong to no target in particular
    position = {id(t): i for i, t in enumerate(tensors_of(exam.batch))}

    def batch(change: Any) -> Any:
        return tree_map(lambda t: change(t) if position.get(id(t)) == at else t, exam.batch)

    _, usual = exam.prediction(exam.batch, evaluate=False)
    _, rolled = exam.prediction(batch(lambda t: t.roll(1, 0)), evaluate=False)
    _, other = exam.prediction(batch(torch.zeros_like), evaluate=False)
    if usual is None or rolled is None or other is None:
        return []
    # (2e-6: the sum is taken in another order)
    invariant = abs(rolled - usual) <= 2e-6 * abs(usual) and abs(other - usual) > 1e-4 * abs(usual)
    found = sanity.pairing(invariant, (tuple(prediction.shape), tuple(target.shape)))
    return [] if found is None else [found]


# -- one batch --------------------------------------------------------------------------------------------------------


def overfit_batch(exam: Examination) -> list[Check]:
    """Train on one batch again and again, with the run's own optimizer and rate; then with other rates."""
    found = exam.first.found
    constant = _constant(exam)
    # the mean loss of the pair is judged: a sum is so many times as large, and a flipped sign must not pass
    factor = 1.0 if constant is None or found is None else found.factor
    noise = _noise(exam) / abs(factor)
    moves = any(float(g["lr"]) > 0 for o in exam.optimizers for g in o.param_groups)
    own = _trained(exam, 1.0, UPDATES, factor, constant, noise)
    trials = [own]
    if own.losses and not exam.dry_run.steps.anywhere(any(own.losses)):
        return [Check("overfits one batch", None, "the loss is 0 from the start")]
    if own.losses and not one_batch.learned(own, constant, noise):
        rose = not own.finite or own.losses[-1] > own.losses[0]
        for rate in (0.1, 0.01) if rose else (10.0, 100.0):
            try:
                trials.append(_trained(exam, rate, UPDATES_AT_OTHER_RATES, factor, constant, noise))
            except Exception:  # the model refuses to compute with NaN: that rate is too large
                exam.dry_run.restart()
                break
            if one_batch.learned(trials[-1], constant, noise):
                break
    return [one_batch.overfits(trials, constant, noise, moves)]


def _constant(exam: Examination) -> float | None:
    """Return the loss of the best answer that is the same for all samples; None where the loss is not a usual one."""
    found = exam.first.found
    if exam.dry_run.steps.anywhere(found is None or bool(found.twice)) or found is None:
        return None
    if found.labels is not None and found.logits is not None:
        share = counted(found.labels, found.logits.shape[1])
        share = share / share.sum()
        value = -(share * share.clamp(min=1e-12).log()).sum()
    else:
        target = found.target.float()
        # (each error has another best constant)
        middle = target.median() if found.kind == "absolute error" else target.mean(0, keepdim=True)
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "squared error": nn.functional.mse_loss,
            "absolute error": nn.functional.l1_loss,
            "Huber loss": nn.functional.smooth_l1_loss,
            "binary cross entropy": nn.functional.binary_cross_entropy,
        }
        value = losses[found.kind](middle.expand_as(target), target)
    return exam.dry_run.steps.mean(value)


def _noise(exam: Examination) -> float:
    """Return by how much two looks at the same batch, with other random numbers, differ."""
    exam.dry_run.restart()
    losses = [exam.look(exam.batch).loss for _ in range(3)]
    values = [exam.dry_run.steps.mean(loss) for loss in losses if loss is not None]
    return max(values) - min(values) if values and all(map(math.isfinite, values)) else 0.0


def _trained(
    exam: Examination, rate: float, updates: int, factor: float, constant: float | None, noise: float
) -> Trial:
    dry_run = exam.dry_run
    dry_run.restart()
    dry_run.data.hold([exam.batch])
    multiply_rates(dry_run.steps.optimizer, [], rate)
    trial = Trial(rate, ())
    for _ in range(updates + 1):
        loss = dry_run.update()
        if loss is None:
            continue
        trial = Trial(rate, (*trial.losses, loss / factor))
        # (the first updates of a rate that is too large may be lucky)
        if not trial.finite or (len(trial.losses) > 10 and one_batch.learned(trial, constant, noise)):
            break
    dry_run.restart()
    return trial
