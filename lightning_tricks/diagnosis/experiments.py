"""The experiments of SanityCheck on a model, in a dry run that leaves no trace. What they mean is in ``sanity.py``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination
from lightning_tricks.diagnosis.gradient_flow import partners, related
from lightning_tricks.diagnosis.recognition import LEFT_OUT
from lightning_tricks.diagnosis.sanity import Check, Trial
from lightning_tricks.measure.labels import counted, counts
from lightning_tricks.measure.units import dead_share, saturated_share
from lightning_tricks.runtime.replaced import Hook
from lightning_tricks.runtime.trace import floating

UPDATES, UPDATES_AT_OTHER_RATES, UPDATES_TO_RECOVER = 40, 15, 15
LABEL_BATCHES = 8
NO_INPUT = "no tensor of the batch was found that is an input and not a label"
_RANGES: tuple[tuple[type[nn.Module], float, float], ...] = ((nn.Sigmoid, 0.0, 1.0), (nn.Tanh, -1.0, 1.0))


# -- the first loss ---------------------------------------------------------------------------------------------------


def initial_loss(exam: Examination) -> list[Check]:
    """Look at the first loss, where it is known which one it is, and at the shapes that go into it."""
    look, dry_run = exam.first, exam.dry_run
    if look.loss is None:
        return [Check("initial loss", None, "training_step returned None")]
    loss = dry_run.mean(look.loss)
    if not math.isfinite(loss) and look.labels is None and _nothing_counts(exam):
        return [Check("initial loss", None, f"{loss:.4g}; no label of the first batch counts")]
    if not math.isfinite(loss):
        fix = "look at the first batch and the loss function: NaN, inf, log(0)"
        return [Check("initial loss", False, f"it is {loss}", fix)]
    found = look.found
    if found is not None and not dry_run.anywhere(exam.first.found is None):
        if found.twice:
            return [sanity.applied_twice(loss, found.twice)]
        if found.factor != 1:
            falls = found.factor < 0 or _falls(exam, 1.0)
            return [sanity.wrong_factor(loss, found.kind, found.factor, falls)]
        if found.logits is not None:
            occurrences = _occurrences(exam, found.logits.shape[1])
            check = sanity.initial_loss(loss, occurrences)
            if dry_run.anywhere(check.passed is False):
                check = sanity.initial_loss(loss, occurrences, recovers=_falls(exam, 0.75))
            return [check]
        if found.kind == "squared error":
            return [sanity.initial_regression(loss, found.target)]
        return [Check("initial loss", True, f"{loss:.4g}; a {found.kind}")]
    check = Check("initial loss", True, f"{loss:.4g}; no labels were found to compare it with")
    if look.labels is not None and look.logits is not None:
        entropy = nn.functional.cross_entropy(look.logits, look.labels, ignore_index=LEFT_OUT)
        seen = f"{loss:.4g}; the cross entropy of outputs and labels is {float(entropy):.4g}"
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
        tensors = [t for t in tree_leaves(exam.dry_run.next_batch()) if isinstance(t, Tensor)]
        if at is not None and at < len(tensors):
            labels = tensors[at].reshape(-1).round().long()
            occurrences += counted(torch.where(labels < classes, labels, LEFT_OUT), classes)
    return [float(n) for n in occurrences.tolist()]


def _falls(exam: Examination, share: float) -> bool:
    """Whether some updates as in training bring the loss below a share of what it was."""
    exam.dry_run.restart()
    losses = [loss for loss in (exam.dry_run.update() for _ in range(UPDATES_TO_RECOVER)) if loss is not None]
    exam.dry_run.restart()
    last = losses[-3:]
    return bool(last) and all(map(math.isfinite, losses)) and sorted(last)[len(last) // 2] < share * losses[0]


def shapes(exam: Examination) -> list[Check]:
    """Let targets change places: the loss of a broadcast, ``[n, 1]`` against ``[n]``, stays as it is."""
    look, at = exam.first, exam.target_at
    prediction, target = look.prediction, look.target
    wrong = partners(exam)
    if wrong or look.found is not None:
        return wrong
    if prediction is None or target is None or at is None:
        return []
    same = prediction.numel() == target.numel() and prediction.shape != target.shape
    if not same or len(target) < 2 or float(prediction.float().std()) == 0 or bool((target == target[:1]).all()):
        return []
    position = {id(t): i for i, t in enumerate(t for t in tree_leaves(exam.batch) if isinstance(t, Tensor))}

    def batch(change: Any) -> Any:
        return tree_map(lambda t: change(t) if position.get(id(t)) == at else t, exam.batch)

    _, usual = exam.prediction(exam.batch, evaluate=False)
    _, rolled = exam.prediction(batch(lambda t: t.roll(1, 0)), evaluate=False)
    _, other = exam.prediction(batch(torch.zeros_like), evaluate=False)
    if usual is None or rolled is None or other is None:
        return []
    invariant = abs(rolled - usual) <= 2e-6 * abs(usual) and abs(other - usual) > 1e-4 * abs(usual)
    found = sanity.pairing(invariant, (tuple(prediction.shape), tuple(target.shape)))
    return [] if found is None else [found]


# -- inputs and samples -----------------------------------------------------------------------------------------------


def input_matters(exam: Examination) -> list[Check]:
    """Zero the input; where nothing changes, ask again after some updates."""
    if exam.dry_run.anywhere(not exam.inputs(exam.batch)):
        return [Check("inputs matter", None, NO_INPUT)]
    zeroed = exam.with_inputs(lambda t: torch.zeros_like(t) if bool((t != 0).any()) else torch.ones_like(t))
    check, before = _input_matters(exam, zeroed, 0, None)
    if exam.dry_run.anywhere(check.passed is not True):
        check, _ = _input_matters(exam, zeroed, UPDATES_BEFORE_ASKING, before)
    return [check]


def _input_matters(exam: Examination, zeroed: Any, updates: int, before: float | None) -> tuple[Check, float | None]:
    whole, loss = exam.prediction(exam.batch, evaluate=True, updates=updates)
    empty, other = exam.prediction(zeroed, evaluate=True, updates=updates)
    outputs = None
    if whole is not None and empty is not None and whole.shape == empty.shape:
        outputs = float((whole.float() - empty.float()).abs().max()) / max(float(whole.abs().max()), 1e-12)
    change = None if loss is None or other is None else abs(loss - other) / max(abs(loss), 1e-12)
    moved = before is None or loss is None or abs(loss - before) > 1e-6 * abs(before)
    return sanity.input_matters(outputs, change, updates, moved=moved), loss


def sample_independence(exam: Examination) -> list[Check]:
    """Replace all samples but the first by others, and look at the row of the output that belongs to it."""
    name = "samples do not leak"
    inputs = exam.inputs(exam.batch)
    size = max((len(t) for t in inputs), default=0)
    if exam.dry_run.anywhere(size < 2):
        return [Check(name, None, "the batch holds one sample" if inputs else NO_INPUT)]

    def others(t: Tensor) -> Tensor:
        other = t[-1:] if size > 2 else t[:1]  # (the same ones in another order would have the same mean)
        return torch.cat([t[:1], other.expand(size - 1, *t.shape[1:])]) if len(t) == size else t

    def first(t: Tensor) -> Tensor:
        return torch.cat([t[-1:], t[1:]]) if len(t) == size else t

    replaced, without = exam.with_inputs(others), exam.with_inputs(first)
    changes = []
    for evaluate in (True, False):
        seen = [exam.prediction(batch, evaluate=evaluate)[0] for batch in (exam.batch, replaced, without)]
        whole, other, rest = seen
        if whole is None or other is None or rest is None or size not in whole.shape[:2]:
            return [Check(name, None, "no output with one row per sample was seen")]
        if len(whole) != size:  # (time comes first)
            whole, other, rest = (t.transpose(0, 1) for t in (whole, other, rest))
        whole, other, rest = (t.float() for t in (whole, other, rest))
        scale = max(float(whole.abs().max()), 1e-12)
        # (a module may shuffle the batch: the row of the first sample is the one that changes with it)
        row = int((whole - rest).abs().flatten(1).amax(1).argmax())
        changes.append(float((whole[row] - other[row]).abs().max()) / scale)
    norms = {n: m for n, m in exam.modules.items() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    reason = related(exam, inputs, size)
    if not reason and exam.first.target is None:
        reason = "no label is known, and the loss may compare samples"
    if not reason and any(not m.track_running_stats for m in norms.values()):
        reason = "a BatchNorm without running statistics looks at the batch always"
    return [sanity.independence(changes[0], changes[1], list(norms), by_design=reason)]


def future(exam: Examination) -> list[Check]:
    """Where each next element of a sequence is predicted, replace later elements and look at earlier outputs."""
    sequence = _sequence(exam)
    if exam.dry_run.anywhere(sequence is None) or sequence is None:
        return []
    name, length = "no look into the future", sequence.shape[1]
    middle = length // 2
    before = torch.arange(length, device=sequence.device) < middle

    def later(t: Tensor) -> Tensor:
        mask = before.view(1, -1, *([1] * (t.ndim - 2)))
        return torch.where(mask, t, t.roll(1, 0).roll(1, 1))

    batch = tree_map(lambda t: later(t) if t is sequence else t, exam.batch)
    for updates in (0, UPDATES_BEFORE_ASKING):
        whole, _ = exam.prediction(exam.batch, evaluate=True, updates=updates)
        other, _ = exam.prediction(batch, evaluate=True, updates=updates)
        if whole is None or other is None or whole.shape != other.shape:
            return [Check(name, None, "no output with one place per element was seen")]
        pair = [_by_place(t.float(), len(sequence), length) for t in (whole, other)]
        if pair[0] is None or pair[1] is None:
            return [Check(name, None, "no output with one place per element was seen")]
        apart = (pair[0] - pair[1]).abs()
        scale = max(float(pair[0].abs().max()), 1e-12)
        change, any_change = float(apart[:, :middle].max()) / scale, float(apart.max()) / scale
        if exam.dry_run.anywhere(any_change > 1e-6):
            return [sanity.no_future(change)]
    return [Check(name, None, "outputs do not depend on the sequence")]


def _sequence(exam: Examination) -> Tensor | None:
    """Return the tensor of the batch whose next elements are predicted; None where nothing like that is done."""
    look = exam.first
    tensors = [t for t in tree_leaves(exam.batch) if isinstance(t, Tensor)]
    if look.sequence is not None:
        labels = next((t for t in tensors if t.data_ptr() == look.sequence.data_ptr()), None)
        if labels is None or exam.roles.get(_at(tensors, labels)) != "target":
            return labels
        alike = [t for t in exam.inputs(exam.batch) if t.shape == labels.shape]
        return next((t for t in alike if bool((t == labels)[counts(labels)].all())), None)
    target = look.target
    if look.found is None or target is None or target.ndim < 2 or target.shape[1] < 3:
        return None
    for t in exam.inputs(exam.batch):
        if t.shape == target.shape and t.dtype == target.dtype:
            valid = counts(target[:, :-1]) if not t.is_floating_point() else torch.ones_like(t[:, 1:], dtype=torch.bool)
            same = (t[:, 1:] == target[:, :-1])[valid]
            if len(same) and float(same.float().mean()) > 0.99:
                return t
    return None


def _at(tensors: list[Tensor], tensor: Tensor) -> int:
    return next(i for i, t in enumerate(tensors) if t is tensor)


def _by_place(output: Tensor, n: int, length: int) -> Tensor | None:
    """Return an output as ``[n, T, ...]`` with T or T - 1 places; None where it has none."""
    if len(output) in (n * length, n * (length - 1)):
        output = output.unflatten(0, (n, -1))
    if output.ndim < 2 or len(output) != n:
        return None
    axis = next((a for a in range(1, output.ndim) if output.shape[a] in (length, length - 1)), None)
    return None if axis is None else output.movedim(axis, 1)


# -- layers -----------------------------------------------------------------------------------------------------------


def units(exam: Examination) -> list[Check]:
    """Look for layers that are dead or saturated before the first update, with parameters behind them."""
    kinds = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh)
    shares: dict[str, list[Tensor]] = {}
    ends: dict[str, int] = {}
    clock = [0, 0]  # calls, and the last one of a module with weights

    def seen(name: str, module: nn.Module, output: Any) -> None:
        clock[0] += 1
        if not isinstance(module, kinds):
            clock[1] = clock[0]
            return
        ends[name] = clock[0]
        tensor = next(iter(floating(output)), None)
        if tensor is None or tensor.ndim < 2:
            return
        rows = tensor.movedim(1, -1).flatten(0, -2) if tensor.ndim > 3 else tensor.flatten(0, -2)
        bounds = next((b for b in _RANGES if isinstance(module, b[0])), None)
        value = rows.amax(0) if bounds is None else saturated_share(tensor, bounds[1], bounds[2]).reshape(1)
        shares.setdefault(name, []).append(value.float())

    exam.dry_run.restart()  # (it takes hooks away that were not there when the dry run began)
    handles = [
        m.register_forward_hook(Hook(lambda module, args, out, n=name: seen(n, module, out)))
        for name, m in exam.modules.items()
        if isinstance(m, kinds) or any(True for _ in m.parameters(recurse=False))
    ]
    rows, batches = 0, 0
    try:
        for _ in range(LABEL_BATCHES):
            clock[:] = [0, 0]
            batch = exam.dry_run.next_batch()
            exam.look(batch)
            rows += max((len(t) for t in tree_leaves(batch) if isinstance(t, Tensor) and t.ndim), default=1)
            batches += 1
    finally:
        for handle in handles:
            handle.remove()
    if not any(isinstance(m, kinds) for m in exam.modules.values()):
        return []
    stopped: list[tuple[str, str, float]] = []
    for name, found in shares.items():
        if ends[name] > clock[1] or len({t.shape for t in found}) > 1:  # bounded outputs; another shape each time
            continue
        bounded = isinstance(exam.modules[name], (nn.Sigmoid, nn.Tanh))
        stacked = torch.stack(found)
        share = float(stacked.mean()) if bounded else float(dead_share(stacked.amax(0)))
        if share > 0.8:
            stopped.append((name, "saturated" if bounded else "dead", share))
    return [sanity.units_live(stopped, rows)]


def modes(exam: Examination) -> list[Check]:
    """Look which modules are in eval mode while they are trained."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    evaluating: list[str] = []
    pretrained: list[str] = []
    held = exam.held()

    def seen(name: str, module: Any, args: Any) -> None:
        if module.training or not torch.is_grad_enabled():
            return
        reached = any(t.requires_grad for t in floating(list(args)))
        own = any(id(p) in held and p.requires_grad for p in module.parameters())
        if isinstance(module, kinds[1]):
            if reached and module.p > 0:
                evaluating.append(name)
        elif own and module.track_running_stats:
            told = int(module.num_batches_tracked) if module.num_batches_tracked is not None else 0
            (pretrained if told > 0 else evaluating).append(name)

    chosen = {n: m for n, m in exam.modules.items() if isinstance(m, kinds)}
    if not chosen:
        return []
    exam.dry_run.restart()
    handles = [
        m.register_forward_pre_hook(Hook(lambda module, args, n=name: seen(n, module, args)))
        for name, m in chosen.items()
    ]
    try:
        exam.look(exam.dry_run.next_batch(), gradient=True)
    finally:
        for handle in handles:
            handle.remove()
    return [sanity.in_training_mode(list(dict.fromkeys(evaluating)), list(dict.fromkeys(pretrained)))]


# -- one batch --------------------------------------------------------------------------------------------------------


def overfit_batch(exam: Examination) -> list[Check]:
    """Train on one batch again and again, with the run's own optimizer and rate; then with other rates."""
    constant = _constant(exam)
    noise = _noise(exam)
    moves = any(float(g["lr"]) > 0 for o in exam.optimizers for g in o.param_groups)
    own = _trained(exam, 1.0, UPDATES, constant, noise)
    trials = [own]
    if own.losses and not sanity.learned(own, constant, noise):
        rose = not own.finite or own.losses[-1] > own.losses[0]
        for factor in (0.1, 0.01) if rose else (10.0, 100.0):
            try:
                trials.append(_trained(exam, factor, UPDATES_AT_OTHER_RATES, constant, noise))
            except Exception:  # the model refuses to compute with NaN: that rate is too large
                exam.dry_run.restart()
                break
            if sanity.learned(trials[-1], constant, noise):
                break
    return [sanity.overfits(trials, constant, noise, moves)]


def _constant(exam: Examination) -> float | None:
    """Return the loss of the best answer that is the same for all samples; None where the loss is not a usual one."""
    found = exam.first.found
    if exam.dry_run.anywhere(found is None or bool(found.twice) or found.factor < 0) or found is None:
        return None
    if found.labels is not None and found.logits is not None:
        share = counted(found.labels, found.logits.shape[1])
        share = share / share.sum()
        value = -(share * share.clamp(min=1e-12).log()).sum()
    else:
        target = found.target.float()
        middle = target.median() if found.kind == "absolute error" else target.mean(0, keepdim=True)
        losses = {
            "squared error": nn.functional.mse_loss,
            "absolute error": nn.functional.l1_loss,
            "Huber loss": nn.functional.smooth_l1_loss,
            "binary cross entropy": nn.functional.binary_cross_entropy,
        }
        value = losses[found.kind](middle.expand_as(target), target)
    return exam.dry_run.mean(value) * found.factor


def _noise(exam: Examination) -> float:
    """Return by how much two looks at the same batch, with other random numbers, differ."""
    exam.dry_run.restart()
    losses = [exam.look(exam.batch).loss for _ in range(3)]
    values = [exam.dry_run.mean(loss) for loss in losses if loss is not None]
    return max(values) - min(values) if values and all(map(math.isfinite, values)) else 0.0


def _trained(exam: Examination, factor: float, updates: int, constant: float | None, noise: float) -> Trial:
    dry_run = exam.dry_run
    dry_run.restart()
    dry_run.hold([exam.batch])
    dry_run.scale_rates(factor)
    trial = Trial(factor, ())
    for _ in range(updates + 1):
        loss = dry_run.update()
        if loss is None:
            continue
        trial = Trial(factor, (*trial.losses, loss))
        # (the first updates of a rate that is too large may be lucky)
        if not trial.finite or (len(trial.losses) > 10 and sanity.learned(trial, constant, noise)):
            break
    dry_run.restart()
    return trial
