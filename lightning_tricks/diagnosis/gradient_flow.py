"""The experiments of SanityCheck with backward passes: which parameters learn, which label goes with which input."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.diagnosis import sanity
from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination, tensors_of
from lightning_tricks.diagnosis.sanity import Check, Gradients
from lightning_tricks.diagnosis.weights import as_initialised, units_alike
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.selection import parameter_names
from lightning_tricks.modules.trace import floating
from lightning_tricks.numerics.torch_internals import CONVOLUTION, tree_map

_EDGES = 2  # rows of a list of edges
_BATCHES_WITHOUT_LOSS = 8
_MARK = 1e8  # no gradient is that large in every element


def gradients(exam: Examination) -> list[Check]:
    """Make some updates: which parameters get a gradient, and from whom are they kept?"""
    dry_run, module = exam.dry_run, exam.module
    dry_run.restart()
    called, graphs = _calls(exam)
    look = exam.look(exam.batch, gradient=True)
    for handle in called.handles:
        handle.remove()
    if dry_run.steps.anywhere(look.loss is None) or look.loss is None:
        return [_without_loss(exam)]
    if dry_run.steps.anywhere(not look.loss.requires_grad):
        return [Check("all parameters learn", False, "the loss depends on no parameter", "do not detach it")]
    names = parameter_names(module)
    parameters = list(module.parameters())
    learning = [p for p in parameters if p.requires_grad]
    prints = {id(p): _fingerprint(p) for p in learning}
    untrained = {id(p) for m in exam.modules.values() if as_initialised(m) for p in m.parameters(recurse=False)}
    present: set[int] = set()
    alive: set[int] = set()

    def note() -> None:
        for p in learning:
            if p.grad is not None:
                present.add(id(p))
                if id(p) not in alive and bool(p.grad.to_dense().any()):
                    alive.add(id(p))

    first = dry_run.steps.mean(look.loss)
    dry_run.steps.backward(look.loss)
    del look
    note()
    for _ in range(UPDATES_BEFORE_ASKING):
        dry_run.update()
        note()
    again = exam.look(exam.batch, gradient=True).loss
    if again is not None and again.requires_grad:
        dry_run.steps.backward(again)
        note()
    del again
    moved = {id(p) for p in learning if _fingerprint(p) != prints[id(p)]}
    kept = _kept(exam)
    held = exam.held()
    trained = [p for p in learning if id(p) in held]
    missing = [p for p in trained if id(p) not in present and id(p) not in moved]
    zero = [p for p in trained if id(p) in present and id(p) not in alive]
    outside = [p for p in learning if id(p) in alive and id(p) not in held]
    cut = [p for p in missing if id(p) in graphs and not _has_twin(module, p, alive)]
    same = [p for p in trained if id(p) in alive and id(p) in _weights(exam) and units_alike(p)]
    if dry_run.steps.anywhere(bool(cut)):
        cut = cut if _influence(exam, cut) else []
    hidden = [p for p in missing if id(p) not in graphs and id(p) in untrained and not _has_twin(module, p, alive)]
    if not cut and dry_run.steps.anywhere(bool(hidden)) and _shapes_prediction(exam, hidden):
        cut = hidden  # called under no_grad, as a network that was trained before may be
    satisfied = math.isfinite(first) and abs(first) < 1e-6
    left_out = _left_out(exam, outside, held)
    still = _still(exam, alive) if not exam.dry_run.steps.anywhere(bool(cut)) else []
    bad = zero if dry_run.steps.anywhere(bool(zero)) and _influence(exam, zero) else []
    most = len(zero) > 0.5 * len(trained)

    def named(chosen: Any) -> tuple[str, ...]:
        return tuple(names[id(p)] for p in chosen)

    unused = [p for p in missing if all(p is not q for q in cut)]
    found = Gradients(
        detached=named(cut),
        unused=named(unused),
        zero=() if satisfied else named(zero),
        all_zero=most or bool(bad),
        frozen=named(p for p in parameters if not p.requires_grad),
        forgotten=named(p for p in outside if id(p) not in left_out),
        left_out=named(p for p in outside if id(p) in left_out),
        kept=kept,
        idle=not moved,
        still=named(still),
        same=named(same),
    )
    return [sanity.gradients_arrive(found)]


def _without_loss(exam: Examination) -> Check:
    """Judge a step that returned None: for some batches that may be meant, for all of them nothing is trained."""
    name, count = "all parameters learn", 1
    for _ in range(_BATCHES_WITHOUT_LOSS - 1):
        if exam.dry_run.steps.anywhere(exam.look(exam.dry_run.data.next_batch()).loss is not None):
            return Check(name, None, "training_step returned None")
        count += 1
    return Check(name, False, f"training_step returned None for {count} batches: nothing is trained", "return the loss")


def _still(exam: Examination, alive: set[int]) -> list[Any]:
    """Return the parameters that have gradients and a learning rate of 0, which no schedule will raise."""
    if exam.dry_run.steps.trainer.lr_scheduler_configs:
        return []
    groups = [g for o in exam.optimizers for g in o.param_groups]
    if all(float(g["lr"]) == 0 for g in groups):  # (a callback may set it)
        return []
    return [p for g in groups if float(g["lr"]) == 0 for p in g["params"] if id(p) in alive]


def _weights(exam: Examination) -> set[int]:
    """Return the ids of the weights of linear and convolutional layers."""
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTION)
    return {id(m.weight) for m in exam.modules.values() if isinstance(m, kinds)}


def _shapes_prediction(exam: Examination, parameters: Sequence[Tensor]) -> bool:
    """Whether the prediction of a loss that is known changes with these parameters: they are not those of a teacher."""
    if exam.dry_run.steps.anywhere(exam.first.found is None):
        return False
    usual, _ = exam.prediction(exam.batch, evaluate=True)
    exam.dry_run.restart()
    with torch.no_grad():
        for p in parameters:
            p.mul_(1.5).add_(0.01)
    with exam.evaluating():
        other = exam.look(exam.batch).prediction
    exam.dry_run.restart()
    changed = usual is not None and other is not None and not torch.allclose(usual.float(), other.float(), rtol=1e-5)
    return exam.dry_run.steps.anywhere(changed)


class _Calls:
    """Hooks that are there for one forward pass."""

    def __init__(self) -> None:
        self.handles: list[Any] = []


def _calls(exam: Examination) -> tuple[_Calls, set[int]]:
    """Note the parameters of modules whose outputs are parts of a graph: these were not called under ``no_grad``."""
    calls, graphs = _Calls(), set[int]()

    def note(module: nn.Module, output: Any) -> None:
        if any(t.requires_grad for t in floating(output)):
            graphs.update(id(p) for p in module.parameters(recurse=False))

    for module in exam.modules.values():
        if any(True for _ in module.parameters(recurse=False)):
            calls.handles.append(module.register_forward_hook(Hook(lambda m, args, out: note(m, out))))
    return calls, graphs


def _fingerprint(parameter: Tensor) -> tuple[float, float]:
    values = parameter.detach().double()
    return float(values.sum()), float(values.abs().sum())


def _has_twin(module: nn.Module, parameter: Tensor, alive: set[int]) -> bool:
    """Whether the parameter is in a module of which another one, with parameters alike, learns: a teacher."""
    subtrees = [[(p.shape, id(p)) for p in m.parameters()] for m in module.modules()]
    shapes = Counter(tuple(s for s, _ in tree) for tree in subtrees if any(i in alive for _, i in tree))
    own = [tree for tree in subtrees if any(i == id(parameter) for _, i in tree)]
    return any(
        not any(i in alive for _, i in tree) and shapes[tuple(s for s, _ in tree)] for tree in own if len(tree) > 1
    )


def _influence(exam: Examination, parameters: Sequence[Tensor]) -> bool:
    """Whether the loss changes with these parameters."""
    exam.dry_run.restart()
    usual = exam.look(exam.batch).loss
    exam.dry_run.restart()
    with torch.no_grad():
        for p in parameters:
            p.mul_(1.5).add_(0.01)
    other = exam.look(exam.batch).loss
    exam.dry_run.restart()
    changed = False
    if usual is not None and other is not None:
        changed = not torch.allclose(usual.float(), other.float(), rtol=1e-6, atol=0.0, equal_nan=True)
    return exam.dry_run.steps.anywhere(changed)


def _left_out(exam: Examination, outside: list[Any], held: set[int]) -> set[int]:
    """Return the ids of those parameters whose whole module no optimizer holds: that may be meant.

    Not the module whose output the loss is made of, nor a part of an ``nn.Sequential``.
    """
    owners = {
        id(m) for m in exam.modules.values() if any(id(p) in {id(q) for q in outside} for p in m.parameters(False))
    }
    last = _gives_prediction(exam, owners)
    found: set[int] = set()
    for name, module in exam.modules.items():
        ids = {id(p) for p in module.parameters() if p.requires_grad}
        if not name or name.rpartition(".")[2].isdigit() or ids & held or ids & last:
            continue
        found |= ids
    return found


def _gives_prediction(exam: Examination, owners: set[int]) -> set[int]:
    """Return the ids of the parameters of the module whose output is the prediction."""
    exam.dry_run.restart()
    ended: list[tuple[nn.Module, Tensor]] = []
    handles = [
        m.register_forward_hook(Hook(lambda module, args, out: ended.extend((module, t) for t in floating(out)[:1])))
        for m in exam.modules.values()
        if id(m) in owners
    ]
    try:
        look = exam.look(exam.batch)
    finally:
        for handle in handles:
            handle.remove()
    exam.dry_run.restart()
    prediction = look.prediction
    if prediction is None:
        return set()
    given = [m for m, t in ended if t.data_ptr() == prediction.data_ptr()]
    return {id(p) for m in given for p in m.parameters()}


def _kept(exam: Examination) -> bool:
    """Whether an update keeps the gradients of the one before: nobody clears them."""
    with torch.no_grad():
        marked = [p for o in exam.optimizers for g in o.param_groups for p in g["params"] if p.grad is not None]
        marked = [p for p in marked if p.grad.layout == torch.strided]
        for p in marked:
            p.grad.fill_(_MARK)
    exam.dry_run.update()
    left = [p.grad for p in marked if p.grad is not None]
    several = len(left) == len(marked) and sum(t.numel() for t in left) > 1
    if not several:
        return exam.dry_run.steps.anywhere(False)
    low = min(float(t.min()) for t in left)
    high = max(float(t.max()) for t in left)
    return exam.dry_run.steps.anywhere(low > 0 and high - low <= 1e-3 * high)


# -- which label goes with which input --------------------------------------------------------------------------------


def partners(exam: Examination) -> list[Check]:
    """Change one sample's input, then its label: the gradients that change must be those of the same rows."""
    inputs = exam.inputs(exam.batch)
    at = next((i for i, role in exam.roles.items() if role == "target"), None)
    at = exam.target_at if exam.first.target is not None else at
    asked = at is not None and exam.roles.get(at) == "target" and bool(inputs)
    if exam.dry_run.steps.anywhere(not asked) or not asked:
        return []
    tensors = tensors_of(exam.batch)
    target = tensors[at]  # type: ignore[index]
    size = len(target) if target.ndim else 0
    if exam.dry_run.steps.anywhere(size < 4 or bool(related(exam, inputs, size))):
        return []
    sample = 1  # (the first one is at its place whatever happens to the others)
    differs = (target != target[sample]).flatten(1).any(1) if target.ndim > 1 else target != target[sample]
    if exam.dry_run.steps.anywhere(not bool(differs.any())):
        return []
    other = int(differs.float().argmax())
    chosen = {id(t) for t in inputs if len(t) == size}

    def moved(t: Tensor) -> Tensor:
        t = t.clone()
        t[sample] = t[other]
        return t

    with_label = tree_map(lambda t: moved(t) if t is target else t, exam.batch)
    with_input = tree_map(lambda t: moved(t) if id(t) in chosen else t, exam.batch)
    values, slopes = zip(*[_entry(exam, batch) for batch in (exam.batch, with_input, with_label)], strict=True)
    if any(v is None for v in (*values, *slopes)) or len({v.shape for v in values}) > 1:
        return []
    by_input = _rows(values[0] - values[1])
    by_label = _rows(slopes[0] - slopes[2])
    if len(by_input) > len(values[0]) // 2:
        return []
    check = sanity.wrong_partner(by_input, by_label, sample)
    return [] if check is None else [check]


def _rows(change: Tensor) -> list[int]:
    size = change.abs().flatten(1).amax(1)
    return [int(i) for i in (size > 1e-3 * size.max()).nonzero().flatten()] if float(size.max()) > 0 else []


def _entry(exam: Examination, batch: Any) -> tuple[Any, Any]:
    """Return what goes into the first layer, or comes out of the first embedding, and the loss's gradient by it."""
    exam.dry_run.restart()
    entries: list[Tensor] = []

    def before(args: Any) -> None:
        for t in floating(list(args))[:1]:
            if not entries and t.is_leaf and not t.requires_grad and t.ndim > 1:
                entries.append(t.requires_grad_())

    def after(output: Tensor) -> None:
        if not entries:
            entries.append(output if output.requires_grad else output.requires_grad_())

    handles = []
    for m in exam.modules.values():
        if isinstance(m, (nn.Embedding, nn.EmbeddingBag)):
            handles.append(m.register_forward_hook(Hook(lambda _, args, out: after(out))))
        elif any(True for _ in m.parameters(recurse=False)):
            handles.append(m.register_forward_pre_hook(Hook(lambda _, args: before(args))))
    try:
        with exam.evaluating():
            loss = exam.look(batch, gradient=True).loss
    finally:
        for handle in handles:
            handle.remove()
    if loss is None or not loss.requires_grad or not entries:
        return None, None
    (slope,) = torch.autograd.grad(loss, entries[:1], allow_unused=True)
    return entries[0].detach(), None if slope is None else slope.detach()


def related(exam: Examination, inputs: list[Tensor], size: int) -> str:
    """Return why the rows of these inputs may belong together; empty where they are samples."""
    exam.dry_run.restart()
    first, second = exam.dry_run.data.next_batch(), exam.dry_run.data.next_batch()
    if exam.dry_run.data.batches_per_epoch == 1 or _the_same(first, second):
        return "every batch is the same: the rows of one graph or series"
    for t in inputs:
        edges = not t.is_floating_point() and t.ndim == 2 and _EDGES in t.shape and int(t.max()) < size
        matrix = t.shape == (size, size) and len(inputs) > 1 and bool((t >= 0).all())
        if matrix or (edges and len(t) != size) or t.layout != torch.strided:
            return "the batch holds what relates its rows to each other, as a graph"
    return ""


def _the_same(left: Any, right: Any) -> bool:
    pairs = list(zip(*[tensors_of(b) for b in (left, right)], strict=False))
    return bool(pairs) and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
