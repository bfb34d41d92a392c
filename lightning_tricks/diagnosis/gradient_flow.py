"""The experiment of SanityCheck that finds which parameters learn, and which are kept from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tricks.diagnosis import sanity_gradients
from lightning_tricks.diagnosis.examination import UPDATES_BEFORE_ASKING, Examination
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.sanity_gradients import Gradients
from lightning_tricks.diagnosis.weights import as_initialised, as_often_drawn, parameters_as_new, units_alike
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.modules.selection import parameter_names
from lightning_tricks.modules.trace import floating
from lightning_tricks.numerics.torch_internals import BATCH_NORM, CONVOLUTION

_NORMS = (*BATCH_NORM, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

_BATCHES_WITHOUT_LOSS = 8
_FEWEST = 64  # weights whose distribution tells that they were never trained
MARK = 1e8  # no gradient is that large in every element


def gradients(exam: Examination) -> list[Check]:
    """Make some updates: which parameters get a gradient, and from whom are they kept?"""
    dry_run = exam.dry_run
    dry_run.restart()
    with in_graphs(exam) as graphs:
        look = exam.look(exam.batch, gradient=True)
    if dry_run.steps.anywhere(look.loss is None) or look.loss is None:
        return [_without_loss(exam)]
    if dry_run.steps.anywhere(not look.loss.requires_grad):
        return [Check("all parameters learn", False, "the loss depends on no parameter", "do not detach it")]
    learning = Learning([p for p in exam.module.parameters() if p.requires_grad])
    untrained = parameters_as_new(exam.modules.values())
    first = dry_run.steps.mean(look.loss)
    dry_run.steps.backward(look.loss)
    del look  # (a graph less while the updates are made)
    _make_updates(exam)
    if dry_run.steps.anywhere(first == 0 and not learning.alive and bool(untrained)):
        return [sanity_gradients.nothing_to_learn(UPDATES_BEFORE_ASKING + 1)]
    satisfied = math.isfinite(first) and abs(first) < 1e-6
    return [sanity_gradients.gradients_arrive(_flow(exam, learning, graphs, untrained, satisfied=satisfied))]


class Learning:
    """Which parameters have had a gradient, which of them one that is not 0, and which have moved.

    Gradients are looked at as they arrive, until ``restart`` of the dry run: hooks of the module may take them away
    again, as that of DINO does with those of the last layer in the first epoch.

    Args:
        parameters: that require gradients; they are told apart by ``id``.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.present: set[int] = set()
        self.alive: set[int] = set()
        self._prints = {id(p): _fingerprint(p) for p in parameters}
        for p in parameters:
            p.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    def _arrived(self, parameter: Tensor) -> None:
        self.present.add(id(parameter))
        gradient = parameter.grad
        if gradient is not None and id(parameter) not in self.alive and bool(gradient.to_dense().any()):
            self.alive.add(id(parameter))

    def moved(self) -> set[int]:
        """Return the ids of the parameters whose values are others than at the beginning."""
        return {id(p) for p in self.parameters if _fingerprint(p) != self._prints[id(p)]}


def _make_updates(exam: Examination) -> None:
    """Make some updates, and one backward pass more on the first batch."""
    for _ in range(UPDATES_BEFORE_ASKING):
        exam.dry_run.update()
    again = exam.look(exam.batch, gradient=True).loss
    if again is not None and again.requires_grad:
        exam.dry_run.steps.backward(again)


def _flow(
    exam: Examination, learning: Learning, graphs: set[int], untrained: set[int], *, satisfied: bool
) -> Gradients:
    """Return which parameters learn, and from which gradients are kept, by their names.

    Args:
        exam: after the updates.
        learning: what the parameters did in them.
        graphs: ids of parameters of modules whose outputs are parts of a graph.
        untrained: ids of parameters that are as they were initialised.
        satisfied: whether the loss was 0 at the beginning, where gradients are.
    """
    anywhere, alive, moved = exam.dry_run.steps.anywhere, learning.alive, learning.moved()
    kept = _kept(exam)
    held = exam.held()
    trained = [p for p in learning.parameters if id(p) in held]
    outside = [p for p in learning.parameters if id(p) in alive and id(p) not in held]
    missing = [p for p in trained if id(p) not in learning.present and id(p) not in moved]
    zero = [p for p in trained if id(p) in learning.present and id(p) not in alive]
    weights = _weights(exam)
    # (asked before anything restarts the dry run: the weights are those after the updates)
    same = [p for p in trained if id(p) in alive and id(p) in weights and units_alike(p)]
    cut = _cut(exam, missing, alive, graphs, untrained)
    whole = left_out(exam, outside, held)
    still = _still(exam, alive) if not anywhere(bool(cut)) else []
    fresh = _fresh(exam, alive)
    shaping = bool(zero) if anywhere(bool(zero)) and _influence(exam, zero) else False
    names = parameter_names(exam.module)

    def named(chosen: Iterable[Tensor]) -> tuple[str, ...]:
        # (hooks of a module may make layers each time that training begins, also in a dry run)
        return tuple(dict.fromkeys(names.get(id(p), "parameters made when training begins") for p in chosen))

    return Gradients(
        detached=named(cut),
        unused=named(p for p in missing if all(p is not q for q in cut)),
        zero=() if satisfied else named(zero),
        all_zero=len(zero) > 0.5 * len(trained) or shaping,
        frozen=named(p for p in exam.module.parameters() if not p.requires_grad),
        fresh=named(fresh),
        forgotten=named(p for p in outside if id(p) not in whole),
        left_out=named(p for p in outside if id(p) in whole),
        kept=kept,
        idle=not moved,
        still=named(still),
        same=named(same),
    )


def _cut(
    exam: Examination, missing: list[nn.Parameter], alive: set[int], graphs: set[int], untrained: set[int]
) -> list[nn.Parameter]:
    """Return the parameters without gradients that shape the loss: something detaches what they compute.

    Args:
        exam: of the training step.
        missing: parameters that get no gradient.
        alive: ids of those that get one.
        graphs: ids of parameters of modules whose outputs are parts of a graph.
        untrained: ids of parameters that are as they were initialised.
    """
    anywhere, module = exam.dry_run.steps.anywhere, exam.module
    twins = {id(p) for p in missing if _has_twin(module, p, alive)}
    cut = [p for p in missing if id(p) in graphs and id(p) not in twins]
    if anywhere(bool(cut)):
        cut = cut if _at_some_time(_influence, exam, cut) else []
    # called under no_grad, as a network that was trained before may be; or as a decoder is that learns beside it, where
    # a teacher would have something to say about the target
    hidden = [p for p in missing if (id(p) in graphs) == (id(p) in twins) and id(p) in untrained]
    if not cut and anywhere(bool(hidden)) and _at_some_time(_shapes_prediction, exam, hidden):
        cut = hidden
    return cut


def _fresh(exam: Examination, alive: set[int]) -> list[nn.Parameter]:
    """Return weights that are frozen as they were initialised and shape the prediction: no checkpoint has reached them.

    That may be meant, as of random features. Those of a teacher are told by a twin that learns.
    """
    exam.dry_run.restart()
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTION, nn.RNNBase)
    still = [m for m in exam.modules.values() if not any(p.requires_grad for p in m.parameters(recurse=False))]
    layers = [m for m in still if isinstance(m, kinds) and as_initialised(m)]
    layers += [m for m in as_often_drawn(still) if all(m is not other for other in layers)]
    frozen = [p for m in layers for p in m.parameters() if not p.requires_grad and p.ndim > 1]
    # (a few numbers may look like new ones by chance)
    found = [p for p in frozen if p.numel() >= _FEWEST and not _has_twin(exam.module, p, alive)]
    return found if exam.dry_run.steps.anywhere(bool(found)) and _shapes_prediction(exam, found) else []


def _at_some_time(asked: Callable[..., bool], exam: Examination, parameters: Sequence[Tensor]) -> bool:
    """Whether the answer is yes at the beginning or after some updates: a head of 0 hides what is before it."""
    return asked(exam, parameters) or asked(exam, parameters, UPDATES_BEFORE_ASKING)


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


def _shapes_prediction(exam: Examination, parameters: Sequence[Tensor], updates: int = 0) -> bool:
    """Whether the prediction of a loss that is known changes with these parameters: they are not those of a teacher."""
    if exam.dry_run.steps.anywhere(exam.first.found is None):
        return False
    usual, _ = exam.prediction(exam.batch, evaluate=True, updates=updates)
    exam.dry_run.restart(updates)
    _disturb(parameters)
    with exam.evaluating():
        other = exam.look(exam.batch).output(exam.first.key)
    exam.dry_run.restart()
    changed = usual is not None and other is not None and not torch.allclose(usual.float(), other.float(), rtol=1e-5)
    return exam.dry_run.steps.anywhere(changed)


@torch.no_grad()
def _disturb(parameters: Iterable[Tensor]) -> None:
    """Change each element by another share of its size, and by a little more, so that those that are 0 change as well.

    One factor for all of them would leave choices as they are: the largest output of a layer stays the largest one.
    """
    for p in parameters:
        waves = torch.arange(p.numel(), device=p.device).mul(2.4).cos().view(p.shape)
        p.add_((p.abs() + 0.01) * waves.to(p.dtype))


@contextmanager
def in_graphs(exam: Examination) -> Iterator[set[int]]:
    """Note the ids of parameters of modules whose outputs are parts of a graph: not called under ``no_grad``."""
    graphs: set[int] = set()

    def note(module: nn.Module, output: Any) -> None:
        if any(t.requires_grad for t in floating(output)):
            graphs.update(id(p) for p in module.parameters(recurse=False))

    handles = [
        module.register_forward_hook(Hook(lambda m, args, out: note(m, out)))
        for module in exam.modules.values()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        yield graphs
    finally:
        for handle in handles:
            handle.remove()


def _fingerprint(parameter: Tensor) -> tuple[float, float]:
    values = parameter.detach().double()
    # (two numbers, because copies of all parameters would double their memory)
    return float(values.sum()), float(values.abs().sum())


def _has_twin(module: nn.Module, parameter: Tensor, alive: set[int]) -> bool:
    """Whether the parameter is in a module of which another one, with parameters alike, learns: a teacher."""
    subtrees = [[(p.shape, id(p)) for p in m.parameters()] for m in module.modules()]
    shapes = Counter(tuple(s for s, _ in tree) for tree in subtrees if any(i in alive for _, i in tree))
    own = [tree for tree in subtrees if any(i == id(parameter) for _, i in tree)]
    return any(
        not any(i in alive for _, i in tree) and shapes[tuple(s for s, _ in tree)] for tree in own if len(tree) > 1
    )


def _influence(exam: Examination, parameters: Sequence[Tensor], updates: int = 0) -> bool:
    """Whether the loss changes with these parameters."""
    exam.dry_run.restart(updates)
    usual = exam.look(exam.batch).loss
    exam.dry_run.restart(updates)
    _disturb(parameters)
    other = exam.look(exam.batch).loss
    exam.dry_run.restart()
    changed = False
    if usual is not None and other is not None:
        changed = not torch.allclose(usual.float(), other.float(), rtol=1e-6, atol=0.0, equal_nan=True)
    return exam.dry_run.steps.anywhere(changed)


def left_out(exam: Examination, outside: list[Any], held: set[int]) -> set[int]:
    """Return the ids of those parameters whose whole module no optimizer holds: that may be meant.

    Not the module whose output the loss is made of, nor a part of an ``nn.Sequential``. All of them where the optimizer
    holds nothing but the parameters of norms, or biases: that is a choice (BitFit, arXiv:2106.10199; Tent,
    arXiv:2006.10726).
    """
    norms = {id(p) for m in exam.modules.values() if isinstance(m, _NORMS) for p in m.parameters(False)}
    biases = {id(p) for name, p in exam.module.named_parameters() if name.endswith("bias")}
    if held & {id(p) for p in exam.module.parameters()} and (held <= norms or held <= biases):
        return {id(p) for p in outside}
    owners = {
        id(m) for m in exam.modules.values() if any(id(p) in {id(q) for q in outside} for p in m.parameters(False))
    }
    last = _gives_prediction(exam, owners)
    found: set[int] = set()
    for name, module in exam.modules.items():
        ids = {id(p) for p in module.parameters() if p.requires_grad}
        # (one entry of a list of layers is not left out on purpose)
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
    # (by address: what was noted of the prediction is detached, and so another tensor)
    given = [m for m, t in ended if t.data_ptr() == prediction.data_ptr()]
    return {id(p) for m in given for p in m.parameters()}


def _kept(exam: Examination) -> bool:
    """Whether an update keeps the gradients of the one before: nobody clears them."""
    marked = mark_gradients(p for o in exam.optimizers for g in o.param_groups for p in g["params"])
    exam.dry_run.update()
    left = [p.grad for p in marked if p.grad is not None]
    several = len(left) == len(marked) and sum(t.numel() for t in left) > 1
    if not several:
        # (the other processes ask too)
        return exam.dry_run.steps.anywhere(False)
    low = min(float(t.min()) for t in left)
    high = max(float(t.max()) for t in left)
    return exam.dry_run.steps.anywhere(low > 0 and high - low <= 1e-3 * high)


def mark_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Fill the gradients that are there with ``MARK``, so that what is kept of them shows; return their parameters."""
    marked = []
    for p in parameters:
        if p.grad is not None and p.grad.layout == torch.strided:
            p.grad.detach().fill_(MARK)
            marked.append(p)
    return marked
