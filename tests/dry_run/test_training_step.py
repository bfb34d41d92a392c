from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from lightning_tricks.dry_run.training_step import Logged, StepWrapper, logs_kept_back, replay


class Module:
    def __init__(self) -> None:
        self.rows: list[tuple[str, float, dict[str, Any]]] = []

    def training_step(self, batch: int, batch_idx: int) -> int:
        return batch

    def log(self, name: str, value: Any, **options: Any) -> None:
        self.rows.append((name, float(value), options))


def test_the_wrapped_step_shows_its_arguments_and_is_restored() -> None:
    module, wrapper = Module(), StepWrapper()
    wrapper.install(module, lambda step, *arguments: step(*arguments) + 1)
    assert list(inspect.signature(module.training_step).parameters) == ["batch", "batch_idx"]
    assert module.training_step(1, 0) == 2
    wrapper.install(module, lambda step, *arguments: step(*arguments) + 10)
    assert module.training_step(1, 0) == 11, "not wrapped twice"
    wrapper.remove()
    wrapper.remove()
    assert "training_step" not in vars(module)


def test_a_step_that_was_an_attribute_of_the_object_comes_back() -> None:
    module, wrapper = Module(), StepWrapper()
    own = module.training_step = lambda batch, batch_idx: 7  # type: ignore[method-assign,assignment]
    wrapper.install(module, lambda step, *arguments: step(*arguments) + 1)
    assert module.training_step(0, 0) == 8
    wrapper.remove()
    assert vars(module)["training_step"] is own


def test_kept_back_logs_are_replayed_as_weighted_means() -> None:
    module = Module()
    calls: list[list[Logged]] = []
    for value in (1.0, 4.0):
        with logs_kept_back(module) as kept:
            module.log("loss", torch.tensor(value), batch_size=3, prog_bar=True)
            module.log("loss", value + 1)
        calls.append(kept)
    assert module.rows == []
    replay(module, calls, [0.75, 0.25])
    assert module.rows == [
        ("loss", pytest.approx(1.75), {"batch_size": 6, "prog_bar": True}),
        ("loss", pytest.approx(2.75), {}),
    ]


def test_logging_works_again_after_an_error() -> None:
    module = Module()
    with pytest.raises(ValueError), logs_kept_back(module):
        raise ValueError
    module.log("a", 1.0)
    assert module.rows == [("a", 1.0, {})]
