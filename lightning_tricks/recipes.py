"""Recipes: what the literature recommends for a kind of network, as a list of callbacks and an optimizer.

To add a recipe, write a function below that returns its choices, with the reasons in its docstring, and put it into
``KINDS``. A choice whose ``needs`` are not given (the name of a layer, say) is left out, and ``print`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_tricks.errors import message, nearest
from lightning_tricks.optimizers import OptimizerChoice
from lightning_tricks.recipe_choices import Choice, Recipe, kind_of, named, settings_of, with_all, with_argument
from lightning_tricks.recipe_choices import tricks as tricks
from lightning_tricks.schedules.lengths import MultiStep

Tricks = str | Sequence[Any] | Mapping[str, Any]


_WATCH = (
    Choice("GradientMonitor", why="shows exploding and vanishing gradients, and NaN by the name of its layer"),
    Choice("TrainingDoctor", why="reports when a run has failed, and why"),
    Choice("LossScaleGuard", why="ends a 16-mixed run in which every update is skipped; nothing elsewhere"),
)


def _one_answer(told: str) -> Choice:
    # (left out unless it is asked for: it refuses a module without labels, and that would end e.g. an autoencoder)
    why = f"notices {told}; needs labels; output='logits' finds the logits by itself"
    return Choice("PredictionCollapse", {}, why, needs=("output",))


def cnn() -> tuple[OptimizerChoice, str, tuple[Choice, ...]]:
    """Convolutional networks from scratch: SGD with Nesterov momentum 0.9, warm-up and cosine, weight decay 5e-4.

    SGD with momentum generalises better than Adam on image classification (Wilson et al., 2017, arXiv:1705.08292). The
    cosine needs no milestones (Loshchilov, Hutter, 2017, arXiv:1608.03983), the warm-up lets the large rate begin
    (Goyal et al., 2017, arXiv:1706.02677), biases and norms get no decay (He et al., 2018, arXiv:1812.01187). The rate,
    0.1, is for batches of 256: scale it with the batch, ``optimizer={"lr": 0.1 * batch / 256}``, or let ``LRFinder``
    find one. No clipping: BatchNorm keeps gradients in bounds.
    """
    optimizer = OptimizerChoice("sgd", lr=0.1, weight_decay=5e-4, momentum=0.9, nesterov=True)
    why = "generalises better than Adam on images (arXiv:1705.08292); lr for batches of 256 (arXiv:1706.02677)"
    schedule = Choice(
        "LRSchedule",
        {"decay": "cosine", "warmup": "5%"},
        "no milestones to tune; the warm-up lets a large rate begin",
        "arXiv:1608.03983, 1706.02677",
    )
    collapse = _one_answer("a classifier that always says the same")
    return optimizer, why, (*_WATCH[:1], schedule, *_WATCH[1:], collapse)


def rnn() -> tuple[OptimizerChoice, str, tuple[Choice, ...]]:
    """Recurrent networks: the norm clipped at 1, Adam, the rate divided by 10 at half and three quarters.

    Gradients through time explode, and the clip keeps their direction (Pascanu et al., 2013, arXiv:1211.5063). Adam
    evens out the scales of gates and embeddings (Kingma, Ba, 2015, arXiv:1412.6980). The rate is held and then falls
    in steps, as in Zaremba et al., 2014, arXiv:1409.2329. A skipped NaN costs one update.
    """
    optimizer = OptimizerChoice("adam", lr=1e-3, weight_decay=0.0)
    why = "evens out the scales of gates and embeddings (arXiv:1412.6980)"
    clip = Choice("GradientClip", {"rule": 1.0}, "gradients through time explode", "arXiv:1211.5063")
    schedule = Choice(
        "LRSchedule",
        {"decay": MultiStep(["50%", "75%"], gamma=0.1), "warmup": 0},
        "hold, then fall in steps",
        "arXiv:1409.2329",
    )
    collapse = _one_answer("a model that always says the same")
    return optimizer, why, (_WATCH[0], clip, schedule, *_WATCH[1:], collapse)


def transformer() -> tuple[OptimizerChoice, str, tuple[Choice, ...]]:
    """Transformers from scratch: warm-up, cosine to a tenth, the norm clipped at 1, AdamW with beta2 = 0.95.

    Without warm-up Adam's second moments are noise in the first updates (Vaswani et al., 2017, arXiv:1706.03762; Liu et
    al., 2019, arXiv:1908.03265). Cosine to 10 %, clip 1.0, beta2 0.95 and weight decay 0.1 are GPT-3's (Brown et al.,
    2020, arXiv:2005.14165). For encoder-decoders of the first paper's kind: ``optimizer={"betas": (0.9, 0.98)}``.
    """
    optimizer = OptimizerChoice("adamw", lr=3e-4, weight_decay=0.1, betas=(0.9, 0.95))
    why = "beta2 0.95 is GPT-3's (arXiv:2005.14165), 0.98 the encoder-decoder's (arXiv:1706.03762)"
    schedule = Choice(
        "LRSchedule",
        {"decay": "cosine", "warmup": "5%", "final": 0.1},
        "Adam's second moments are noise at first; cosine to a tenth",
        "arXiv:1706.03762, 2005.14165",
    )
    clip = Choice("GradientClip", {"rule": 1.0}, "bounds the spikes of rare batches", "arXiv:2005.14165")
    doctor = Choice("PrecisionDoctor", why="names the module that overflows under 16-bit precision")
    collapse = _one_answer("a model that always says the same")
    return optimizer, why, (_WATCH[0], clip, schedule, *_WATCH[1:], doctor, collapse)


def finetune() -> tuple[OptimizerChoice, str, tuple[Choice, ...]]:
    """Fine-tuning of a pretrained network: a small rate, warm-up of 10 %, linear to 0, the norm clipped at 1, AdamW.

    Small rates and a linear decay keep what was learnt (Devlin et al., 2019, arXiv:1810.04805); the longer warm-up lets
    fewer runs fail (Mosbach et al., 2021, arXiv:2006.04884). ``optimizer={"layer_decay": 0.75}`` gives lower layers
    lower rates (Howard, Ruder, 2018, arXiv:1801.06146). Small data overfit: the doctor says when.
    """
    optimizer = OptimizerChoice("adamw", lr=5e-5, weight_decay=0.01)
    why = "a small rate keeps what was learnt (arXiv:1810.04805); layer_decay=0.75 lowers it below (arXiv:1801.06146)"
    schedule = Choice(
        "LRSchedule",
        {"decay": "linear", "warmup": "10%"},
        "fewer failed runs than with a short warm-up",
        "arXiv:2006.04884",
    )
    clip = Choice("GradientClip", {"rule": 1.0}, "a new head's first gradients are large", "arXiv:1810.04805")
    collapse = _one_answer("a fine-tuning that fell to one class")
    return optimizer, why, (_WATCH[0], clip, schedule, *_WATCH[1:], collapse)


def gan() -> tuple[OptimizerChoice, str, tuple[Choice, ...]]:
    """Generative adversarial networks: Adam with beta1 = 0.5 at a constant rate for each of two parts.

    Low momentum keeps the two players from circling (Radford et al., 2016, arXiv:1511.06434), and the rate stays: the
    game has no loss that falls to an end. The parts are the submodules ``generator`` and ``discriminator``; others:
    ``optimizer={"parts": ("g", "d")}``. The name of the generator, ``generator=``, adds ``ModeCollapse``.
    """
    optimizer = OptimizerChoice(
        "adam", lr=2e-4, weight_decay=0.0, betas=(0.5, 0.999), parts=("generator", "discriminator")
    )
    why = "low momentum keeps the players from circling (arXiv:1511.06434)"
    collapse = Choice("ModeCollapse", {}, "notices samples that become equal", "arXiv:1606.03498", ("generator",))
    return optimizer, why, (*_WATCH, collapse)


def self_supervised() -> tuple[OptimizerChoice, str, tuple[Choice, ...]]:
    """Self-supervised learning with two views: SGD with momentum, warm-up, cosine, and an eye on the embeddings.

    Settings of SimSiam (Chen, He, 2021, arXiv:2011.10566): rate 0.05 for batches of 256, weight decay 1e-4, cosine. The
    loss of a collapsed network is perfect, so only the embeddings tell: ``layer=`` adds ``RepresentationCollapse``.
    """
    optimizer = OptimizerChoice("sgd", lr=0.05, weight_decay=1e-4, momentum=0.9)
    why = "SimSiam's; lr for batches of 256 (arXiv:2011.10566)"
    schedule = Choice(
        "LRSchedule",
        {"decay": "cosine", "warmup": "5%"},
        "SimSiam's, with a warm-up for large batches",
        "arXiv:2011.10566, 2002.05709",
    )
    collapse = Choice(
        "RepresentationCollapse", {}, "a collapsed network has a perfect loss", "arXiv:2011.10566", ("layer",)
    )
    return optimizer, why, (_WATCH[0], schedule, *_WATCH[1:], collapse)


KINDS: dict[str, Callable[[], tuple[OptimizerChoice, str, tuple[Choice, ...]]]] = {
    "cnn": cnn,
    "rnn": rnn,
    "transformer": transformer,
    "finetune": finetune,
    "gan": gan,
    "self_supervised": self_supervised,
}


def recipe(kind: str, **overrides: Any) -> Recipe:
    """Return the callbacks that the literature recommends for a kind of network; ``print`` shows them with reasons.

    Args:
        kind: ``"cnn"``, ``"rnn"``, ``"transformer"``, ``"finetune"``, ``"gan"`` or ``"self_supervised"``; each is a
            function of ``lightning_tricks.recipes`` whose docstring has the sources.
        overrides: the name of a callback with a dict of arguments to change or to add it, with a callback object to
            take its place, or with None to leave it out; ``optimizer`` with a dict of settings (``OptimizerChoice``);
            or an argument that only one callback of the recipe has: ``warmup=100``, ``layer="projector"``.

    Returns:
        A list of callbacks, to be passed to a Trainer. Its ``optimizer`` is what ``TricksMixin`` builds.

    Raises:
        TypeError: no callback of the recipe has that argument, or several have.
        ValueError: there is no such kind, or a callback refuses its arguments.

    Example:
        >>> from lightning_tricks import recipe
        >>> [type(trick).__name__ for trick in recipe("cnn", GradientClip={"rule": 0.5}, LossScaleGuard=None)]
        ['GradientMonitor', 'LRSchedule', 'TrainingDoctor', 'GradientClip']
    """
    if kind not in KINDS:
        near = kind_of(str(kind)) or nearest(str(kind), KINDS)
        hint = f"Did you mean {near!r}?" if near else "Use one of these"
        raise ValueError(message("recipe", "kind", kind, f"kind must be one of {', '.join(KINDS)}", hint))
    optimizer, why, choices = KINDS[kind]()
    settings = overrides.pop("optimizer", None)
    if settings is not None:
        optimizer = optimizer.changed(settings_of("recipe", "optimizer", settings))
    # (callbacks are classes, whose names are capitalised)
    whole = {name: value for name, value in overrides.items() if name[:1].isupper()}
    choices, replaced = with_all(choices, whole)
    for name, value in overrides.items():
        if name not in whole:
            choices = with_argument(kind, choices, name, value)
    return Recipe(kind, optimizer, why, choices, replaced)


def as_recipe(tricks: Tricks) -> Recipe:
    """Return what ``TricksMixin.tricks`` means: a recipe's name, a list of callbacks or names, or a dict per trick.

    Args:
        tricks: ``"cnn"``; ``[GradientClip(0.5), "GradientMonitor"]``; or ``{"recipe": "cnn", "optimizer": {"lr": 0.01},
            "GradientClip": {"rule": 0.5}}``, where ``recipe`` may be missing.

    Raises:
        TypeError: it is none of these.
        ValueError: a name is unknown.

    Example:
        >>> [type(trick).__name__ for trick in as_recipe({"GradientClip": {"rule": 0.5}})]
        ['GradientClip']
    """
    if isinstance(tricks, Recipe):
        return tricks
    if isinstance(tricks, str):
        return recipe(tricks)
    if isinstance(tricks, Mapping):
        settings = dict(tricks)
        kind = settings.pop("recipe", None)
        if kind is not None:
            return recipe(kind, **settings)
        for name in settings:
            # (a misspelt ``recipe`` would pass for the name of a callback)
            if str(name)[:1].islower() and nearest(str(name), ["recipe", "optimizer"]) == "recipe":
                rule = "a key must be 'recipe', 'optimizer' or the name of a callback"
                raise ValueError(message("tricks", str(name), settings[name], rule, "Did you mean 'recipe'?"))
        optimizer = OptimizerChoice().changed(settings_of("tricks", "optimizer", settings.pop("optimizer", {})))
        return Recipe("", optimizer, "the default", *with_all((), settings))
    callbacks: Any = tricks
    if not isinstance(callbacks, Sequence):
        rule = "tricks must be the name of a recipe, a list of callbacks, or a dict of arguments by callback"
        raise TypeError(message("TricksMixin", "tricks", tricks, rule, f"Use e.g. {', '.join(map(repr, KINDS))}"))
    callbacks = [named(trick)() if isinstance(trick, str) else trick for trick in callbacks]
    for callback in callbacks:
        if not hasattr(callback, "on_train_start"):
            rule = "every element of tricks must be a callback or the name of one"
            raise TypeError(message("TricksMixin", "tricks", callback, rule, "Use e.g. [GradientClip(1.0)]"))
    return Recipe("", OptimizerChoice(), "the default", callbacks=callbacks)
