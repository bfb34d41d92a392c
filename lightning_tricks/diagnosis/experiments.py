"""The experiments of SanityCheck on inputs, samples and layers. What they mean is in ``sanity.py``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination, emptied, tensors_of
from lightning_tricks.diagnosis.partners import related
from lightning_tricks.diagnosis.recognition import alike, other_values
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.modules.labels import counts
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.trace import floating
from lightning_tricks.numerics.torch_internals import BATCH_NORM, DROPOUT
from lightning_tricks.numerics.trees import tree_map
from lightning_tricks.numerics.units import dead_share, saturated_share

BATCHES_FOR_UNITS = 8
MOST_INPUTS = 4  # of a batch that are asked one by one
NO_INPUT = "no tensor of the batch was found that is an input and not a label"
_RANGES: tuple[tuple[type[nn.Module], float, float], ...] = ((nn.Sigmoid, 0.0, 1.0), (nn.Tanh, -1.0, 1.0))


# -- inputs and samples -----------------------------------------------------------------------------------------------


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


def sample_independence(exam: Examination) -> list[Check]:
    """Replace all samples but one by others, and look at the row of the output that belongs to it.

    Asked of the first sample and of the last one: a recurrent network that takes the batch for time carries what it has
    seen of the first samples to the later ones, and never back.
    """
    name = "samples do not leak"
    inputs = exam.inputs(exam.batch)
    size = max((len(t) for t in inputs), default=0)
    if exam.dry_run.steps.anywhere(size < 2):
        return [Check(name, None, "the batch holds one sample" if inputs else NO_INPUT)]
    kept = [_kept(exam, size, position) for position in (0, size - 1)]
    changes = []
    for evaluate in (True, False):
        usual = exam.prediction(exam.batch, evaluate=evaluate)[0]
        found = []
        for batches in kept:
            seen = [usual, *(exam.prediction(batch, evaluate=evaluate)[0] for batch in batches)]
            outputs = [t for t in seen if t is not None]
            leak = _leak(outputs, size) if len(outputs) == len(seen) else None
            if leak is None:
                return [Check(name, None, "no output with one row per sample was seen")]
            found.append(leak)
        changes.append(max(found))
    norms = {n: m for n, m in exam.modules.items() if isinstance(m, BATCH_NORM)}
    moved = _by_place_in_batch(exam, size) if changes[0] <= sanity.LEAK else 0.0
    reason = related(exam, inputs, size)
    if not reason and exam.first.target is None:
        reason = "no label is known, and the loss may compare samples"
    if not reason and exam.first.found is None and _mixed_before(exam, kept[0][0], size):
        reason = "the step itself mixes the samples, before they reach the model"
    if not reason and any(not m.track_running_stats for m in norms.values()):
        reason = "a BatchNorm without running statistics looks at the batch always"
    if not reason and exam.dry_run.steps.anywhere(moved > sanity.LEAK):
        return [sanity.depends_on_place(moved)]
    return [sanity.independence(changes[0], changes[1], list(norms), by_design=reason)]


def _by_place_in_batch(exam: Examination, size: int) -> float:
    """Return by how much outputs change with the place of a sample in the batch, over their size, in eval mode.

    0 where they are random in eval mode too: noise belongs to a place. 0 as well where the step itself makes the
    difference, before the model sees the samples: random crops belong to a place too, also with a seed of their own.
    """
    # (labels move with their samples: an output to which a margin was added depends on them)
    other = tree_map(lambda t: t.roll(1, 0) if isinstance(t, Tensor) and t.ndim and len(t) == size else t, exam.batch)
    usual = exam.prediction(exam.batch, evaluate=True)[0]
    again = exam.prediction(exam.batch, evaluate=True, shifted=True)[0]
    moved = exam.prediction(other, evaluate=True)[0]
    if usual is None or again is None or moved is None or not usual.shape == again.shape == moved.shape:
        return 0.0
    scale = max(float(usual.float().abs().max()), 1e-12)
    if float((usual.float() - again.float()).abs().max()) > 1e-6 * scale:
        return 0.0
    # (by every reading of the shape, as above)
    readings = zip(*(_by_sample(t.float(), size) for t in (usual, moved)), strict=True)
    changes = [float((shifted.roll(-1, 0) - whole).abs().max()) / scale for whole, shifted in readings]
    change = min(changes, default=0.0)
    return change if change <= sanity.LEAK or _entry_follows(exam, other, size) else 0.0


def _into_modules(exam: Examination, batch: Any, *, learning: bool = False) -> list[Tensor]:
    """Return the tensors that are given to the parts of the model, in the order of their calls.

    Args:
        exam: the examination; its dry run starts again.
        batch: what the step is given.
        learning: of parts that have parameters of their own only.
    """
    given: list[Tensor] = []
    exam.dry_run.restart()
    handles = [
        m.register_forward_pre_hook(Hook(lambda _, args: given.extend(t.detach() for t in tensors_of(args))))
        for name, m in exam.modules.items()
        if name and (not learning or any(True for _ in m.parameters(recurse=False)))
    ]
    try:
        exam.look(batch)
    finally:
        for handle in handles:
            handle.remove()
    return given


def _entry_follows(exam: Examination, rolled: Any, size: int) -> bool:
    """Whether what goes into the first module that sees the samples is in the order of the batch, here and rolled."""
    seen: list[list[Tensor]] = []
    for batch in (exam.batch, rolled):
        with exam.evaluating():
            entries = _into_modules(exam, batch, learning=True)
        seen.append([t for t in entries if t.ndim and len(t) == size])
    pairs = [(a, b) for a, b in zip(*seen, strict=False) if a.shape == b.shape and not torch.equal(a, b)]
    return bool(pairs) and torch.equal(pairs[0][1].roll(-1, 0), pairs[0][0])


def _kept(exam: Examination, size: int, position: int) -> tuple[Any, Any]:
    """Return two batches: one in which only that sample is the same, and one in which only that sample is another.

    Args:
        exam: the examination.
        size: samples in the batch.
        position: of the sample.
    """
    far = size - 1 - position  # (the first or the last)

    def one_replaced(t: Tensor) -> Tensor:
        return torch.cat([t[:position], t[far : far + 1], t[position + 1 :]]) if len(t) == size else t

    def others_replaced(t: Tensor) -> Tensor:
        if len(t) != size:
            return t
        # (the same ones in another order would have the same mean)
        other = t[far : far + 1] if size > 2 else t[position : position + 1]
        alone = other.expand(size, *t.shape[1:]).clone()
        alone[position] = t[position]
        return alone

    return exam.with_inputs(others_replaced), exam.with_inputs(one_replaced)


def _leak(seen: list[Tensor], size: int) -> float | None:
    """Return by how much the row of a sample changes with the other samples, as a share of the outputs' size.

    None where no output has rows of samples. Shapes may not tell which axis is theirs, as with as many classes as
    samples. Where samples leak they do by every reading, so the smallest counts.

    Args:
        seen: outputs for the batch, with the others replaced, and with the sample replaced.
        size: samples in the batch.

    >>> usual, sample_replaced = torch.eye(4), torch.eye(4).index_fill(0, torch.tensor([1]), 2.0)
    >>> _leak([usual, usual, sample_replaced], 2), _leak([usual, usual, sample_replaced], 3)
    (0.0, None)
    """
    changes = []
    for whole, other, rest in zip(*(_by_sample(t.float(), size) for t in seen), strict=True):
        scale = max(float(whole.abs().max()), 1e-12)
        # (a module may shuffle the batch: the row of the sample is the one that changes with it)
        row = int((whole - rest).abs().amax(1).argmax())
        change = float((whole[row] - other[row]).abs().max()) / scale
        # a step may sort the batch by what it holds, as by time: then the row is somewhere else
        if change > sanity.LEAK:
            row = int(torch.cdist(whole, rest, p=math.inf).amin(1).argmax())
            change = min(change, float(torch.cdist(whole[row : row + 1], other, p=math.inf).min()) / scale)
        changes.append(change)
    return min(changes, default=None)


def _by_sample(output: Tensor, size: int) -> list[Tensor]:
    """Return an output as ``[samples, values]``, in each way in which its shape can be read.

    >>> [t.shape for t in _by_sample(torch.zeros(6, 2, 5), 2)]
    [torch.Size([2, 30]), torch.Size([2, 30]), torch.Size([2, 30])]
    """
    found = []
    if output.ndim > 1 and output.shape[1] == size:  # time first
        found.append(output.transpose(0, 1))
    if output.ndim and len(output) % size == 0:
        found.append(output.reshape(size, -1))
        if len(output) > size:  # places one after another, those of each sample or those of each time
            found.append(output.reshape(-1, size, *output.shape[1:]).transpose(0, 1))
    return [t.reshape(size, -1) for t in found]


def _mixed_before(exam: Examination, replaced: Any, size: int) -> bool:
    """Whether rows that reach the model's first module depend on a few samples each, as those of mixed images do.

    Rows that depend on all samples, as through a mean over the batch, are another matter: there samples leak.

    Args:
        exam: the examination.
        replaced: the batch in which only the first sample is the same.
        size: samples in the batch.
    """

    def with_second_replaced(usual: Any, other: Any) -> Any:
        whole = isinstance(usual, Tensor) and usual.ndim > 0 and len(usual) == size
        return torch.cat([usual[:1], other[1:2], usual[2:]]) if whole else usual

    entries: list[Tensor | None] = []
    for batch in (exam.batch, tree_map(with_second_replaced, exam.batch, replaced)):
        seen = [t for t in _into_modules(exam, batch) if t.is_floating_point()]
        entries.append(seen[0] if seen and seen[0].ndim else None)
    one, two = entries
    if exam.dry_run.steps.anywhere(one is None or two is None or len(one) != size) or one is None or two is None:
        return False
    known = {id(t) for t in tensors_of(exam.batch)}
    given = [t for t in exam.inputs(exam.batch) if t.shape == one.shape and t.is_floating_point() and id(t) in known]
    # (rows that are only in another order are not a mixture)
    rows = [torch.cdist(one.flatten(1).double(), t.flatten(1).double()).amin(1) for t in given]
    scale = float(one.abs().amax()) * one[0].numel() ** 0.5
    mixture = all(float(r.median()) > 1e-3 * scale for r in rows)
    touched = int((one != two).flatten(1).any(1).sum())
    return bool(rows) and mixture and 0 < touched <= size // 2


def future(exam: Examination) -> list[Check]:
    """Where each next element of a sequence is predicted, replace later elements and look at earlier outputs."""
    sequence = _sequence(exam)
    if exam.dry_run.steps.anywhere(sequence is None) or sequence is None:
        return _copied(exam)
    name, length = "no look into the future", sequence.shape[1]
    middle = length // 2
    before = torch.arange(length, device=sequence.device) < middle

    def later(t: Tensor) -> Tensor:
        mask = before.view(1, -1, *([1] * (t.ndim - 2)))
        # (from another sample and another place: many samples have the same element at one place)
        return torch.where(mask, t, t.roll(1, 0).roll(1, 1))

    batch = tree_map(lambda t: later(t) if t is sequence else t, exam.batch)
    # (a head that begins at zero hides the sequence until it has been updated)
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
        if exam.dry_run.steps.anywhere(any_change > 1e-6):
            full = str(exam.dry_run.steps.trainer.precision).startswith(("32", "64"))
            return [sanity.no_future(change, sanity.RESOLUTION if full else sanity.LEAK)]
    return [Check(name, None, "outputs do not depend on the sequence")]


def _copied(exam: Examination) -> list[Check]:
    """Where the target of each place is the input of that place, look whether the model sees it and nothing later.

    Then it has only to copy. A network that sees the whole sequence is another matter: an autoencoder.
    """
    target = exam.first.target
    tokens = exam.first.found is not None and target is not None and not target.is_floating_point()
    if not tokens or target is None or target.ndim != 2 or target.shape[1] < 3 or len(target) < 2:
        source = None
    else:
        alike = [t for t in tensors_of(exam.batch) if t.shape == target.shape and not t.is_floating_point()]
        known = [t for t in alike if bool((t == target)[counts(target)].all())]
        source = next((t for t in known if exam.roles.get(_at(tensors_of(exam.batch), t)) == "input"), None)
    if exam.dry_run.steps.anywhere(source is None) or source is None:
        return []
    n, length = source.shape
    middle = length // 2
    changed = source.clone()
    changed[:, middle] = source.roll(1, 0)[:, middle]
    batch = tree_map(lambda t: changed if t is source else t, exam.batch)
    pair = [exam.prediction(b, evaluate=True, updates=UPDATES_BEFORE_ASKING)[0] for b in (exam.batch, batch)]
    places = [None if p is None else _by_place(p.float(), n, length) for p in pair]
    if places[0] is None or places[1] is None or places[0].shape[1] != length:
        return []
    apart = (places[0] - places[1]).abs().flatten(2).amax((0, 2)) / max(float(places[0].abs().max()), 1e-12)
    return sanity.no_copy(float(apart[:middle].max()), float(apart[middle]))


def _sequence(exam: Examination) -> Tensor | None:
    """Return the tensor of the batch whose next elements are predicted; None where nothing like that is done."""
    look = exam.first
    tensors = tensors_of(exam.batch)
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
            # (a few elements may have been masked)
            if len(same) and float(same.float().mean()) > 0.99:
                return t
    return None


def _at(tensors: list[Tensor], tensor: Tensor) -> int:
    return next(i for i, t in enumerate(tensors) if t is tensor)


def _by_place(output: Tensor, n: int, length: int) -> Tensor | None:
    """Return an output as ``[n, T, ...]`` with T or T - 1 places; None where it has none."""
    if len(output) in (n * length, n * (length - 1)):
        output = output.reshape(n, -1, *output.shape[1:])
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
    return [sanity.units_are_alive(stopped, rows)]


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
