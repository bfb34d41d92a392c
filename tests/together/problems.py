"""What several tests of together train or compare: modules, data and functions."""

from __future__ import annotations

import inspect
from typing import Any

import lightning_tricks
from lightning_tricks.lifecycle.trick import Trick
from tests.matrix import EXAMPLES

CALLBACKS = sorted(
    n for n in lightning_tricks.__all__ if inspect.isclass(c := getattr(lightning_tricks, n)) and issubclass(c, Trick)
)


def example(name: str, **changed: Any) -> Any:
    return getattr(lightning_tricks, name)(**{**EXAMPLES[name], **changed})


def assert_clean(t: Any, module: Any) -> None:
    for o in t.optimizers:
        assert not o._optimizer_step_pre_hooks
        assert not o._optimizer_step_post_hooks
        assert not {"grad_scale", "found_inf"} & set(o.__dict__)
    assert not any(p._backward_hooks for p in module.parameters())
