"""The experiments of SanityCheck on inputs, samples and layers. What they mean is in ``sanity.py``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.diagnosis import sanity, sanity_gradients
from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination, emptied, tensors_of
from lightning_tricks.diagnosis.recognition import alike, other_values
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.trace import floating
from lightning_tricks.numerics.torch_internals import BATCH_NORM, DROPOUT
from lightning_tricks.numerics.trees import tree_map
from lightning_tricks.numerics.units import dead_share, saturated_share

BATCHES_FOR_UNITS = 8
MOST_INPUTS = 4  # of a batch that are asked one by one
NO_INPUT = "no tensor of the batch was found that is an input and not a label"
_ARRIVES = 1e-3  # of the size of a prediction, to first order
_RANGES: tuple[tuple[type[nn.Module], float, float], ...] = ((nn.Sigmoid, 0.0, 1.0), (nn.Tanh, -1.0, 1.0))


def input_matters(exam: Examination) -> list[Check]:
    """Zero the input; where nothing changes, ask again after some updates.

    Without a known target the loss alone is asked. Where modules see the input and the loss does not, a term of it may
    have a weight that is still 0; and what comes from an environment has a batch that holds nothing.
    """
    if exam.dry_run.steps.anywhere(not exam.inputs(exam.batch)):
        return [Check("inputs matter", None, NO_INPUT)]
    zeroed = exam.with_inputs(emptied)
    check, before = _input_matters(exam, zeroed, 0, None)
    if exam.dry_run.steps.anywhere(check.passed is not True):
        check, _ = _input_matters(exam, zeroed, UPDATES_BEFORE_ASKING, before)
    if exam.dry_run.steps.anywhere(check.passed is False):
        # running statistics that have not been gathered yet hide the input from many layers in eval mode
        again, _ = _input_matters(exam, zeroed, UPDATES_BEFORE_ASKING, before, evaluate=False)
        check = again if exam.dry_run.steps.anywhere(again.passed is True) else check
    known = exam.dry_run.steps.anywhere(exam.first.target is not None)
    if known and exam.dry_run.steps.anywhere(check.passed is False) and _gradient_arrives(exam, zeroed):
        seen = f"{check.evidence}; gradients pass from the prediction to the input all the same, as through a rounding"
        return [Check("inputs matter", None, seen)]
    if exam.dry_run.steps.anywhere(check.passed is False) and exam.first.target is None:
        reached = "input" in exam.roles.values()
        empty = all(says_nothing(t) for t in tensors_of(exam.batch))
        if exam.dry_run.steps.anywhere(reached or empty):
            seen = "the batch holds nothing that could" if empty else "the loss does not depend yet on what modules see"
            return [Check("inputs matter", None, f"{check.evidence}; {seen}")]
    if exam.dry_run.steps.anywhere(check.passed is not True or exam.first.found is None):
        return [check]
    lost = _lost_inputs(exam)
    return [sanity.input_lost(lost)] if lost else [check]


def _gradient_arrives(exam: Examination, zeroed: Any) -> bool:
    """Whether a prediction that stays as it is has a gradient by the inputs, and the loss one by it.

    Codes of a quantiser with a straight-through estimator may be the same for all inputs at first.
    """
    without, _ = exam.prediction(zeroed, evaluate=True, updates=UPDATES_BEFORE_ASKING)
    exam.dry_run.restart(UPDATES_BEFORE_ASKING)
    asked = exam.with_inputs(lambda t: t.detach().clone().requires_grad_() if t.is_floating_point() else t)
    leaves = [t for t in tensors_of(asked) if t.requires_grad]
    with exam.evaluating():
        look = exam.look(asked, gradient=True, inputs=True)
    share = _share_of_gradient(look.output(exam.first.key, tracked=True), without, look.loss, leaves)
    return exam.dry_run.steps.anywhere(share > _ARRIVES)


def _share_of_gradient(prediction: Tensor | None, without: Tensor | None, loss: Tensor | None, leaves: Any) -> float:
    """Return how far inputs could move a prediction that stays as it is without them, over its size."""
    if prediction is None or without is None or loss is None or not alike([prediction.detach()], [without]):
        return 0.0
    if not (leaves and prediction.requires_grad and loss.requires_grad):
        return 0.0
    (asks,) = torch.autograd.grad(loss.sum(), [prediction], allow_unused=True, retain_graph=True)
    if asks is None or not bool(asks.any()):
        return 0.0
    size = prediction.float().square().sum()
    slopes = torch.autograd.grad(size / 2, leaves, allow_unused=True)
    # (torch warns of a number that is made of a tensor with a graph)
    moved = sum(float((s * t.detach()).abs().sum()) for s, t in zip(slopes, leaves, strict=True) if s is not None)
    return moved / max(float(size.detach()), 1e-12)


def _lost_inputs(exam: Examination) -> list[str]:
    """Return the inputs that modules see and the prediction does not depend on, one by one, after some updates.

    As the source of a translation whose decoder gets no state. Asked only where the loss is known to be that of the
    prediction and its target, so that no other term depends on them yet; and an input that makes outputs of the form of
    the prediction by another call may be that of a term whose weight is still 0, as of a mean teacher.
    """
    tensors = tensors_of(exam.batch)
    seen = [i for i, role in exam.roles.items() if role == "input"]
    if not 1 < len(seen) <= MOST_INPUTS:
        return []
    # (labels are seen too where they make the inputs, as of attacks on the model, or are given to a decoder)
    asked = [i for i in seen if i != exam.target_at]
    usual = _outputs(exam, exam.batch)
    lost = []
    for i in asked:
        same = True
        for other in other_values(tensors[i]):
            batch = tree_map(lambda t, i=i, new=other: new if t is tensors[i] else t, exam.batch)
            moved = _outputs(exam, batch)
            same &= len(usual) == len(moved) > 0 and alike(usual, moved)
        if not exam.dry_run.steps.anywhere(not same):
            lost.append(f"tensor {i} of the batch, {tuple(tensors[i].shape)}")
    return lost


def _outputs(exam: Examination, batch: Any) -> list[Tensor]:
    """Return the prediction and all outputs of its form, after some updates; none where there is no prediction."""
    look = exam.look_again(batch, evaluate=True, updates=UPDATES_BEFORE_ASKING)
    prediction = look.output(exam.first.key)
    return [] if prediction is None else [t for t in look.candidates if t.shape[1:] == prediction.shape[1:]]


def says_nothing(tensor: Tensor) -> bool:
    """Whether a tensor of a batch is one number throughout, or counts: what a data set without data gives.

    >>> says_nothing(torch.zeros(3)), says_nothing(torch.arange(3)), says_nothing(torch.tensor([3.0, 1.0, 2.0]))
    (True, True, False)
    """
    values = tensor.reshape(-1)
    if values.numel() < 2 or bool((values == values[0]).all()):
        return True
    return not values.is_floating_point() and bool((values.diff() == 1).all())


def _input_matters(
    exam: Examination, zeroed: Any, updates: int, before: float | None, *, evaluate: bool = True
) -> tuple[Check, float | None]:
    whole, loss = exam.prediction(exam.batch, evaluate=evaluate, updates=updates)
    empty, other = exam.prediction(zeroed, evaluate=evaluate, updates=updates)
    outputs = None
    # (without a known target the prediction is a guess, and may come from a part that has no input)
    known = exam.first.target is not None or loss is None
    if exam.dry_run.steps.anywhere(known) and whole is not None and empty is not None and whole.shape == empty.shape:
        outputs = float((whole.float() - empty.float()).abs().max()) / max(float(whole.abs().max()), 1e-12)
    change = None if loss is None or other is None else abs(loss - other) / max(abs(loss), 1e-12)
    # (nothing but padding, for which there is no mean: NaN is a change too)
    if change is not None and math.isnan(change) and math.isfinite(loss or 0.0):
        change = math.inf
    if outputs is not None and math.isnan(outputs) and whole is not None and bool(whole.isfinite().all()):
        outputs = math.inf
    moved = before is None or loss is None or abs(loss - before) > 1e-6 * abs(before)
    return sanity.input_matters(outputs, change, updates, moved=moved), loss


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
        for _ in range(BATCHES_FOR_UNITS):
            clock[:] = [0, 0]
            batch = exam.dry_run.data.next_batch()
            exam.look(batch)
            rows += max((len(t) for t in tensors_of(batch) if t.ndim), default=1)
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
    return [sanity_gradients.units_are_alive(stopped, rows)]


def modes(exam: Examination) -> list[Check]:
    """Look which modules are in eval mode while they are trained."""
    kinds = (*BATCH_NORM, *DROPOUT)
    evaluating: list[str] = []
    pretrained: list[str] = []
    trained = set[str]()
    held = exam.held()

    def seen(name: str, module: Any, args: Any) -> None:
        if module.training or not torch.is_grad_enabled():
            trained.update([name] if module.training else [])
            return
        reached = any(t.requires_grad for t in floating(list(args)))
        own = any(id(p) in held and p.requires_grad for p in module.parameters())
        if isinstance(module, DROPOUT):
            share: Any = module.p
            if reached and share > 0:
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
        exam.look(exam.dry_run.data.next_batch(), gradient=True)
    finally:
        for handle in handles:
            handle.remove()
    # (some steps call a module in both modes, as those of a GAN may)
    only = [[n for n in dict.fromkeys(names) if n not in trained] for names in (evaluating, pretrained)]
    return [sanity.in_training_mode(*only)]
