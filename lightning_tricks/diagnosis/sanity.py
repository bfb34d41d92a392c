"""What the experiments of SanityCheck on a model mean: numbers in, passed or not, and the fix. No Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_tricks.errors import listed
from lightning_tricks.publishing.statement import Outcome, Stated, Statement

LEAK = 1e-3  # of the size of the outputs
OUT_OF_REACH = 0.4  # of the outputs
RESOLUTION = 1e-5  # of outputs of 32 bits: numbers that do not depend on others differ by less


@dataclass(frozen=True)
class Check(Stated):
    """The result of one experiment.

    Args:
        name: what was asked.
        passed: the answer; None where it could not be told.
        evidence: the numbers.
        fix: what to do, for one that did not pass.

    Example:
        >>> Check("overfits one batch", True, "2.3 -> 0.01 in 40 updates").mark
        'pass'
    """

    name: str
    passed: bool | None
    evidence: str
    fix: str = ""

    @property
    def mark(self) -> str:
        """``pass``, ``FAIL`` or ``?``."""
        return self.statement.outcome.mark

    @property
    def statement(self) -> Statement:
        """What was seen and what to do, in the form that it shares with verdicts and findings."""
        outcome = {True: Outcome.GOOD, False: Outcome.BAD, None: Outcome.UNKNOWN}[self.passed]
        return Statement(outcome, self.name, self.evidence, self.fix)

    def __str__(self) -> str:
        """Say it in one line.

        >>> print(Check("inputs matter", False, "the loss changes by 0", "follow the input"))
        FAIL  inputs matter: the loss changes by 0. Fix: follow the input.
        """
        remedy = f" Fix: {self.fix}." if self.fix else ""
        return f"{self.mark}  {self.name}: {self.evidence}.{remedy}"


def input_matters(outputs: float | None, loss: float | None, updates: int = 0, *, moved: bool = True) -> Check:
    """Judge how much outputs and loss change when the inputs are zeroed.

    Args:
        outputs: change of the prediction over its size; None where no prediction was seen.
        loss: change of the loss over its size.
        updates: made before.
        moved: whether these updates changed the loss at all.

    >>> input_matters(0.3, 0.1).passed, input_matters(0.0, 0.0, 5).passed
    (True, False)
    """
    name = "inputs matter"
    what = [f"outputs change by {outputs:.2g} of their size"] if outputs is not None else []
    what += [f"the loss by {loss:.2g}"] if loss is not None else []
    seen = " and ".join(what) + " when the input is zeroed" + (f", after {updates} updates" if updates else "")
    if not what:
        return Check(name, None, "no output of a module was seen")
    if (outputs is not None and outputs > 1e-5) and (loss is None or loss > 1e-6):
        return Check(name, True, seen)
    # (an offset in the outputs, as of prices in millions, makes their change look small)
    if (outputs is not None and outputs > 1e-6) and (loss is not None and loss > 1e-3):
        return Check(name, True, seen)
    if outputs is None and loss is not None and loss > 1e-6:
        return Check(name, True, seen)
    if not moved:
        return Check(name, None, f"{seen}, and these updates change nothing that can be seen")
    fix = "follow the input through the model: a factor of 0, a detached or dead layer"
    return Check(name, False, seen, fix)


def input_lost(names: Sequence[str]) -> Check:
    """Report inputs that modules see and the prediction does not depend on.

    >>> input_lost(["tensor 0 of the batch, (16, 9)"]).passed
    False
    """
    seen = f"modules see {listed(names, 6)}, and the prediction does not change with it"
    fix = "follow that input: a state that is not handed on, an output that is not used, a mask that hides all of it"
    return Check("inputs matter", False, seen, fix)


def independence(in_eval: float, in_training: float, batch_norm: Sequence[str], *, by_design: str = "") -> Check:
    """Judge how much the output of one sample changes when the others are replaced, over its size.

    Args:
        in_eval: change in eval mode.
        in_training: change in training mode.
        batch_norm: names of such modules.
        by_design: why samples may depend on each other here; empty where they must not.

    >>> independence(0.0, 0.2, ["body.1"]).evidence
    'in eval mode 0; in training 0.2, through BatchNorm (body.1), which is meant to'
    """
    name = "samples do not leak"
    if in_eval > LEAK:
        seen = f"a sample's output changes by {in_eval:.2g} of its size when the others are replaced, in eval mode"
        fix = "look for reshape or view that mixes the batch, softmax or mean over dimension 0, batch_first"
        return Check(name, None, f"{seen}; {by_design}") if by_design else Check(name, False, seen, fix)
    seen = f"in eval mode {in_eval:.1g}"
    if in_training > 1e-3 and batch_norm:
        seen += f"; in training {in_training:.1g}, through BatchNorm ({batch_norm[0]}), which is meant to"
    elif in_training > 1e-3:
        fix = "in training mode only, and there is no BatchNorm: what else looks at the whole batch?"
        return Check(name, None, f"{seen}; in training {in_training:.1g}", fix)
    return Check(name, True, seen)


def depends_on_place(change: float) -> Check:
    """Report outputs that change with the place of their sample in the batch, over their size.

    >>> depends_on_place(0.1).passed
    False
    """
    seen = f"a sample's output changes by {change:.2g} of its size with its place in the batch, in eval mode"
    fix = "look for a positional encoding or a buffer along dimension 0 that is meant for dimension 1: batch_first"
    return Check("samples do not leak", False, seen, fix)


def no_future(change: float, resolution: float = RESOLUTION) -> Check:
    """Judge how much outputs change at places before those whose inputs were replaced, over their size.

    Args:
        change: of the outputs.
        resolution: of their numbers.

    >>> no_future(0.0).passed, no_future(0.2).passed
    (True, False)
    """
    seen = f"outputs change by {change:.2g} of their size when later elements of the sequence are replaced"
    if change <= resolution:
        return Check("no look into the future", True, seen)
    fix = "a causal mask (is_causal=True), a unidirectional network, padding on the left only"
    return Check("no look into the future", False, seen, fix)


def no_copy(before: float, there: float) -> list[Check]:
    """Judge a model whose target at each place is the input at that place, from what changes when one place is changed.

    Args:
        before: change of the outputs at earlier places, over their size.
        there: change of the output at that place.

    >>> no_copy(0.0, 0.5)[0].passed, no_copy(0.5, 0.5)
    (False, [])
    """
    if before > 1e-3 or there <= 1e-3:
        return []
    seen = "the target at each place of the sequence is the input at that place, which the model sees: it has to copy"
    return [Check("no look into the future", False, seen, "shift the target: outputs [:, :-1] and tokens [:, 1:]")]


def pairing(invariant: bool, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Check | None:
    """Report a loss that does not depend on which target belongs to which prediction: ``[n, 1]`` against ``[n]``.

    >>> pairing(True, ((8, 1), (8,))).evidence
    'predictions (8, 1) and targets (8,): the loss stays the same when the targets change places, so they are broadcast'
    """
    if not invariant:
        return None
    column = "a column of " if shapes[0] == shapes[1] else ""
    seen = (
        f"predictions {shapes[0]} and {column}targets {shapes[1]}: the loss stays the same when the targets change "
        "places, so they are broadcast"
    )
    fix = "squeeze the prediction: loss(prediction.squeeze(-1), target)"
    return Check("shapes of outputs and labels", False, seen, fix)


def wrong_partner(by_input: Sequence[int], by_label: Sequence[int], sample: int) -> Check | None:
    """Report a label whose change reaches the gradients of other rows than those of its sample.

    Args:
        by_input: rows of the first layer's input that change with the input of a sample.
        by_label: rows whose gradients change with its label.
        sample: its number in the batch.

    >>> wrong_partner([2, 3], [2, 3], 1) is None, wrong_partner([2, 3], [1, 5], 1).passed
    (True, False)
    """
    if not by_input or not by_label or set(by_input) & set(by_label):
        return None
    seen = (
        f"sample {sample} is row {by_input[0]} of what goes into the model, and its label belongs to row {by_label[0]}"
    )
    fix = "look at the order of both: repeat for repeat_interleave, view for permute, a shuffle of one of them"
    return Check("shapes of outputs and labels", False, seen, fix)


def label_in_several_places(spread: int, asked: int) -> Check | None:
    """Report labels that are compared with outputs of several places.

    Args:
        spread: labels of one place whose change reached the gradients of several places.
        asked: how many were changed.

    >>> label_in_several_places(0, 3) is None, label_in_several_places(3, 3).passed
    (True, False)
    """
    if 2 * spread <= asked:
        return None
    seen = f"the label of one place is compared with outputs of several places, for {spread} of {asked} labels"
    fix = "bring the classes to dimension 1 by movedim(-1, 1) or permute, not by view or reshape"
    return Check("shapes of outputs and labels", False, seen, fix)


def within_reach(share: float, activation: str) -> Check:
    """Judge the share of outputs that are at an end of their range while the loss asks for more.

    >>> within_reach(0.9, "sigmoid").passed, within_reach(0.0, "relu").passed
    (False, True)
    """
    seen = f"after updates on one batch {share:.0%} of the outputs are at an end of what {activation} can give"
    if share <= OUT_OF_REACH:
        return Check("labels are within reach", True, f"{seen}, and have to go on")
    return Check("labels are within reach", False, f"{seen}, and the loss asks for more", _without(activation))


def labels_out_of_reach(share: float, activation: str) -> Check:
    """Report the share of labels that are beyond all that an output can be.

    >>> labels_out_of_reach(0.9, "sigmoid").evidence
    '90% of the labels are beyond what sigmoid can give'
    """
    seen = f"{share:.0%} of the labels are beyond what {activation} can give"
    return Check("labels are within reach", False, seen, _without(activation))


def _without(activation: str) -> str:
    return f"leave the last {activation} out, or bring the labels into its range"


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
        return Check(
            name,
            False,
            seen,
            "a detach(), no_grad(), numpy() or argmax behind them? Or freeze them: requires_grad_(False)",
        )
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


def axes_exchanged(module: str, shape: tuple[int, ...], before: tuple[int, ...]) -> Check:
    """Report a module that gets a tensor whose axes were exchanged by a reshape.

    >>> axes_exchanged("net.0", (8, 6, 30), (8, 30, 6)).evidence
    'net.0 gets (8, 6, 30), with the elements in the order of (8, 30, 6)'
    """
    seen = f"{module} gets {shape}, with the elements in the order of {before}"
    return Check("shapes of outputs and labels", False, seen, "permute or transpose in place of view or reshape")


def other_axis_normalised(shape: tuple[int, ...], over: int, classes: int) -> Check:
    """Report a softmax over an axis that is not that of the classes.

    >>> other_axis_normalised((8, 24, 2), 1, 2).passed
    False
    """
    seen = f"the loss normalises outputs {shape} over axis {over}, and the classes are axis {classes}"
    return Check("shapes of outputs and labels", False, seen, f"softmax over the classes: dim={classes}")


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


def in_training_mode(evaluating: Sequence[str], pretrained: Sequence[str]) -> Check:
    """Judge modules that behave differently in training and are not in training mode.

    Args:
        evaluating: trained ones in eval mode, by name.
        pretrained: normalisation layers in eval mode, whose statistics were gathered before.

    >>> in_training_mode(["net.1"], []).passed, in_training_mode([], ["net.1"]).passed, in_training_mode([], []).passed
    (False, None, True)
    """
    name = "modules are in training mode"
    if evaluating:
        seen = f"in eval mode, though trained: {listed(evaluating, 6)}"
        fix = (
            "module.train() before the fit: Lightning keeps the mode that it finds, and from_pretrained gives eval mode"
        )
        return Check(name, False, seen, fix)
    if pretrained:
        seen = f"in eval mode with the statistics of an earlier training: {listed(pretrained, 6)}"
        return Check(name, None, seen, "fine where that is meant (small batches); else module.train()")
    return Check(name, True, "dropout and normalisation that are trained are in training mode")
