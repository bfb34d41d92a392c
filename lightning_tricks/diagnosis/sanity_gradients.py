"""What the experiment of SanityCheck on gradients means: which parameters learn, and the fix. No Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.errors import listed


@dataclass(frozen=True)
class Gradients:
    """Which parameters take part, by name.

    Args:
        detached: in an optimizer, part of the loss, and cut off from it: no gradient.
        unused: no gradient, and nothing that shows that there should be one.
        zero: a gradient that is 0 everywhere, on several batches and after several updates.
        all_zero: whether that are all of them, or most.
        frozen: do not require a gradient.
        fresh: do not require one, shape the prediction, and are as layers begin.
        forgotten: have a gradient, and no optimizer, though their neighbours have one.
        left_out: have a gradient and no optimizer, as whole modules.
        kept: whether gradients are never cleared.
        idle: whether no weight moved at all.
        still: have a gradient, and a learning rate of 0.
        same: weights of layers whose units are all the same, after several updates.
    """

    detached: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()
    all_zero: bool = False
    frozen: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    kept: bool = False
    idle: bool = False
    still: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


def gradients_arrive(found: Gradients) -> Check:
    """Judge which parameters take part.

    >>> gradients_arrive(Gradients(frozen=("body.weight",))).evidence
    'all parameters get gradients; frozen: body.weight'
    """
    name = "all parameters learn"
    told = f"; frozen: {listed(found.frozen, 6)}" if found.frozen else ""
    # (the first that applies is told: what is surely wrong before what may be meant)
    if found.kept:
        fix = "optimizer_zero_grad must clear them, or leave it out: Lightning does it"
        return Check(name, False, f"gradients are never cleared between updates{told}", fix)
    if found.forgotten:
        seen = f"in no optimizer: {listed(found.forgotten, 6)}{told}"
        return Check(name, False, seen, "pass self.parameters() to the optimizer, after the last layer was replaced")
    if found.detached:
        seen = f"no gradient, though the loss depends on them: {listed(found.detached, 6)}{told}"
        fix = "a detach(), no_grad(), numpy() or argmax behind them? Or freeze them: requires_grad_(False)"
        return Check(name, False, seen, fix)
    if found.still:
        seen = f"a learning rate of 0, and no schedule that raises it: {listed(found.still, 6)}{told}"
        return Check(name, False, seen, "give these parameter groups a rate, or freeze them: requires_grad_(False)")
    if found.same:
        seen = f"all units have the same weights, and get the same gradient: {listed(found.same, 6)}{told}"
        return Check(name, False, seen, "begin with random weights: constant ones keep the units of a layer alike")
    if found.zero and not found.idle:
        seen = f"gradient 0 everywhere: {listed(found.zero, 6)}{told}"
        return Check(name, False if found.all_zero else None, seen, "a dead layer, or a factor of 0 behind them")
    if found.idle and found.zero:
        return Check(name, None, f"gradient 0 everywhere: {listed(found.zero, 6)}, and no weight moves yet{told}")
    if found.unused:
        fix = "they take no part in this loss: freeze or remove them, if that is not meant"
        return Check(name, None, f"no gradient: {listed(found.unused, 6)}{told}", fix)
    if found.left_out:
        seen = f"in no optimizer, as a whole: {listed(found.left_out, 6)}{told}"
        return Check(name, None, seen, "requires_grad_(False), if that is meant; else pass self.parameters()")
    if found.fresh:
        fix = "fine for random features; of a checkpoint, look at what load_state_dict(strict=False) returns"
        return Check(name, None, f"frozen, and as new layers are: {listed(found.fresh, 6)}", fix)
    return Check(name, True, f"all parameters get gradients{told}")


def nothing_to_learn(batches: int) -> Check:
    """Report a loss of 0 without any gradient, of a model that was not trained before.

    >>> nothing_to_learn(6).passed
    False
    """
    seen = f"the loss is 0, and so is every gradient, on {batches} batches"
    return Check("all parameters learn", False, seen, "look at margins, masks, weights and clamps in the loss")


def do_not_move(names: Sequence[str], steps: int) -> Check:
    """Report parameters that an optimizer holds, and that some steps of a module's own did not change.

    >>> do_not_move(["generator.weight"], 12).passed
    """
    seen = f"{steps} steps do not change {listed(names, 6)}"
    return Check("all parameters learn", None, seen, "is their optimizer stepped, and do they get gradients?")


def are_cut_off(names: Sequence[str], steps: int) -> Check:
    """Report layers that are called, that some steps of a module's own leave as new, and whose optimizer moves others.

    >>> are_cut_off(["encoder.weight"], 12).passed
    False
    """
    seen = f"no gradient in {steps} steps: {listed(names, 6)}, which are as new layers are and were called"
    fix = "a detach(), no_grad(), numpy() or argmax behind them? Or freeze them: requires_grad_(False)"
    return Check("all parameters learn", False, seen, fix)


def units_are_alive(stopped: Sequence[tuple[str, str, float]], rows: int) -> Check:
    """Judge layers before the first update.

    Args:
        stopped: name, kind (``"dead"`` or ``"saturated"``) and share of units, of each layer with more than 80 %.
        rows: samples that were seen.

    >>> units_are_alive([("net.1", "dead", 0.97)], 512).evidence, units_are_alive([("net.1", "dead", 0.85)], 512).passed
    ('97% of net.1 are dead', None)
    """
    name = "units are alive"
    if not stopped:
        return Check(name, True, "no activation layer has more than 80% of its units dead or saturated")
    seen = "; ".join(f"{share:.0%} of {layer} are {kind}" for layer, kind, share in stopped[:4])
    fix = "look at initial weights and biases, and at the scale of the inputs"
    # sparse autoencoders and small batches have most units at rest, and learn
    certain = rows >= 16 and any(share > 0.95 for _, _, share in stopped)
    return Check(name, False if certain else None, seen, fix)
