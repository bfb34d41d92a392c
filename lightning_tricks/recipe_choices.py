"""The callbacks of a recipe by their names and arguments, and what a user changes of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_tricks.errors import message, nearest
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.optimizers import OptimizerChoice
from lightning_tricks.publishing.html import table


@dataclass(frozen=True)
class Choice:
    """One callback of a recipe.

    Args:
        trick: name of the callback's class.
        arguments: those that differ from the defaults.
        why: the reason, in a sentence.
        source: where it is recommended.
        needs: arguments that only the user can give; without them the callback is left out.
    """

    trick: str
    arguments: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    source: str = ""
    needs: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything that it needs is there."""
        return all(name in self.arguments for name in self.needs)

    def build(self) -> Trick:
        """Return the callback."""
        return named(self.trick)(**self.arguments)


def tricks() -> dict[str, type[Trick]]:
    """Return the callbacks of the pack by name: the subclasses of ``Trick`` that none of the pack's own extends."""
    found = [cls for cls in _subclasses(Trick) if cls.__module__.startswith("lightning_tricks.")]
    extended = {base for cls in found for base in cls.__bases__}
    return {cls.__name__: cls for cls in sorted(found, key=lambda cls: cls.__name__) if cls not in extended}


def _subclasses(cls: type[Trick]) -> list[type[Trick]]:
    own = cls.__subclasses__()
    return own + [found for sub in own for found in _subclasses(sub)]


def named(name: str) -> type[Trick]:
    """Return the public callback of that name."""
    known = tricks()
    if name not in known:
        near = nearest(name, known)
        remedy = f"Did you mean {near!r}?" if near else f"There are: {', '.join(known)}"
        raise ValueError(f"lightning_tricks has no callback {name!r}. {remedy.rstrip('.')}")
    return known[name]


def settings_of(owner: str, argument: str, value: Any) -> dict[str, Any]:
    """Return settings that are given as a dict."""
    if not isinstance(value, Mapping):
        rule = f"{argument} must be a dict of settings"
        raise TypeError(message(owner, argument, value, rule, "Use e.g. {'lr': 0.01}"))
    return dict(value)


def with_all(choices: tuple[Choice, ...], whole: Mapping[str, Any]) -> tuple[tuple[Choice, ...], list[Any]]:
    """Return the choices changed by callbacks' names, and the objects that take the place of some."""
    replaced: list[Any] = []
    for name, value in whole.items():
        choices, callback = _with(choices, name, value)
        replaced += [] if callback is None else [callback]
    return choices, replaced


def _with(choices: tuple[Choice, ...], name: str, value: Any) -> tuple[tuple[Choice, ...], Any]:
    """Return the choices with one callback changed, added or left out, and an object that takes its place."""
    cls = named(name)
    if value is None or isinstance(value, cls):
        return tuple(choice for choice in choices if choice.trick != name), value
    arguments = settings_of("recipe", name, value)
    known = list(inspect.signature(cls).parameters)
    for argument in arguments:
        if argument not in known:
            near = nearest(argument, known)
            remedy = f"Did you mean {near!r}?" if near else f"It has: {', '.join(known)}"
            raise TypeError(message(name, argument, arguments[argument], f"{name} has no {argument}", remedy))
    if any(choice.trick == name for choice in choices):
        merged = [
            replace(choice, arguments={**choice.arguments, **arguments}) if choice.trick == name else choice
            for choice in choices
        ]
        return tuple(merged), None
    return (*choices, Choice(name, arguments, "asked for")), None


def with_argument(kind: str, choices: tuple[Choice, ...], name: str, value: Any) -> tuple[Choice, ...]:
    """Return the choices with an argument given to the only callback that has one of that name."""
    owners = {choice.trick: list(inspect.signature(named(choice.trick)).parameters) for choice in choices}
    needing = [choice.trick for choice in choices if name in choice.needs]
    having = needing or [trick for trick, arguments in owners.items() if name in arguments]
    if len(having) != 1:
        every = {argument for arguments in owners.values() for argument in arguments} | set(tricks()) | {"optimizer"}
        near = nearest(name, every)
        rule = f"several callbacks have {name}" if having else f"no callback of this recipe has {name}"
        remedy = (
            f"Say which: {having[0]}={{{name!r}: {value!r}}}" if having else f"Did you mean {near!r}?" if near else ""
        )
        raise TypeError(message(f"recipe({kind!r})", name, value, rule, remedy or "print(recipe(...)) shows them"))
    return _with(choices, having[0], {name: value})[0]


class Recipe(list[Any]):
    """A list of callbacks that knows its reasons: ``print(recipe("cnn"))``.

    Args:
        kind: name of the recipe; empty for a list of the user's own.
        optimizer: what ``TricksMixin.configure_optimizers`` takes.
        why: the reason for the optimizer.
        choices: the callbacks, built and left out.
        callbacks: the callbacks themselves, where they are not built from choices.
    """

    def __init__(
        self,
        kind: str,
        optimizer: OptimizerChoice,
        why: str,
        choices: Sequence[Choice] = (),
        callbacks: Sequence[Any] = (),
    ) -> None:
        super().__init__([*(choice.build() for choice in choices if choice.complete), *callbacks])
        self.kind = kind
        self.optimizer = optimizer
        self.why = why
        self.choices = tuple(choices)

    @property
    def state_dict(self) -> Any:
        """Refuse a list where a callback belongs: this is the first that a Trainer asks of one."""
        raise TypeError(
            f"callbacks=[recipe({self.kind!r})]: a recipe is a list of callbacks already. Write "
            f"callbacks=recipe({self.kind!r}), or callbacks=[*recipe({self.kind!r}), ...] for more of them."
        )

    def __str__(self) -> str:
        lines = [f"recipe({self.kind!r})", f"  optimizer {self.optimizer}", f"      {self.why}"]
        for choice in self.choices:
            shown = ", ".join(f"{k}={v!r}" for k, v in choice.arguments.items())
            if choice.complete:
                lines.append(f"  {choice.trick}({shown})")
            else:
                missing = ", ".join(f"{name}=" for name in choice.needs if name not in choice.arguments)
                lines.append(f"  {choice.trick}: left out; pass {missing} to have it")
            lines.append(f"      {choice.why}" + (f" ({choice.source})" if choice.source else ""))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [("optimizer", str(self.optimizer), self.why, "")]
        for choice in self.choices:
            shown = ", ".join(f"{k}={v!r}" for k, v in choice.arguments.items())
            missing = ", ".join(f"{name}=" for name in choice.needs if name not in choice.arguments)
            arguments = shown if choice.complete else f"left out; pass {missing} to have it"
            rows.append((choice.trick, arguments, choice.why, choice.source))
        chosen = {choice.trick for choice in self.choices if choice.complete}
        rows += [(type(c).__name__, repr(c), "given", "") for c in self if type(c).__name__ not in chosen]
        return table(("", "arguments", "why", "source"), rows)


# parts of the names of networks -> the recipe for them; the first that fits
_NETWORKS = {
    "self_supervised": ("simclr", "simsiam", "byol", "moco", "dino", "barlow", "vicreg", "swav", "ssl", "contrastive"),
    "gan": ("gan",),
    "finetune": ("bert", "lora", "peft", "pretrained", "transfer", "fine"),
    "cnn": ("resnet", "resnext", "vgg", "convnext", "efficientnet", "mobilenet", "densenet", "unet", "yolo", "conv"),
    "rnn": ("lstm", "gru", "recurrent", "seq2seq"),
    "transformer": ("gpt", "vit", "llama", "t5", "swin", "attention", "llm", "former"),
}


def kind_of(network: str) -> str | None:
    """Return the recipe for a network of that name; None for one that is not known.

    >>> kind_of("resnet18"), kind_of("DistilBERT"), kind_of("mine")
    ('cnn', 'finetune', None)
    """
    name = network.lower()
    return next((kind for kind, parts in _NETWORKS.items() if any(part in name for part in parts)), None)
