"""Random states and gradients as plain values: what a checkpoint has to hold for a resumed run to be the same run.

Everything is a dict, list, number, text, None or tensor, so it loads with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_tricks.dry_run.generators import State, places_of, set_state, state_of
from lightning_tricks.dry_run.generators import global_state as random_state
from lightning_tricks.dry_run.generators import set_global_state as put_random_state
from lightning_tricks.dry_run.roots import held_generators
from lightning_tricks.optimizer_step import gradient_writer

__all__ = [
    "State",
    "generator_states",
    "gradients",
    "put_generator_states",
    "put_gradients",
    "put_random_state",
    "random_state",
]


def generator_states(loaders: Iterable[Any], module: nn.Module | None = None) -> State:
    """Return the states of the generators that loaders and a module hold, by place."""
    return {place: state_of(generator) for place, generator in _generators(loaders, module).items()}


def put_generator_states(loaders: Iterable[Any], states: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Put back what ``generator_states`` returned; generators that are new or gone are left alone."""
    for place, generator in _generators(loaders, module).items():
        if place in states:
            set_state(generator, states[place])


def _generators(loaders: Iterable[Any], module: nn.Module | None) -> dict[str, Any]:
    loaders = list(loaders)
    found = places_of(loaders)
    # (one that loader and module share is saved and put back once)
    known = {id(generator) for generator in found.values()}
    datasets = {f"{i}.dataset": getattr(loader, "dataset", None) for i, loader in enumerate(loaders)}
    more = held_generators({} if module is None else {"module": module}, datasets)
    return {**found, **{place: generator for place, generator in more.items() if id(generator) not in known}}


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients that are there, in the host's memory, by name of parameter."""
    # (copied on the CPU too, where the next backward pass would add to them)
    return {n: p.grad.detach().to("cpu", copy=True) for n, p in module.named_parameters() if p.grad is not None}


def put_gradients(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Put back what ``gradients`` returned; of parameters that are gone nothing."""
    named = {name: p for name, p in module.named_parameters() if name in kept}
    gradient_writer.give(list(named.values()), [kept[name].to(p.device) for name, p in named.items()])
