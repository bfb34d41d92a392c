from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import pytest
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lightning_tricks.modules.replaced import replaced


class Owner:
    def method(self) -> str:
        return "of the class"


def test_an_attribute_of_the_object_comes_back_and_one_of_the_class_is_seen_again() -> None:
    owner: Any = Owner()
    owner.own = before = object()
    for name, value in (("own", 1), ("method", lambda: "replaced")):
        put_back = replaced(owner, name, value)
        assert getattr(owner, name) == value or getattr(owner, name)() == "replaced"
        put_back()
        put_back()
    assert owner.own is before and owner.method() == "of the class" and list(vars(owner)) == ["own"]


def test_lightning_sees_the_arguments_of_the_method_that_is_replaced() -> None:
    class Module:
        def training_step(self, batch: Any, batch_idx: int) -> str:
            return "its own"

    def around(step: Any) -> Any:
        @functools.wraps(step)
        def training_step(*arguments: Any) -> str:
            return f"around {step(*arguments)}"

        return training_step

    module = Module()
    put_back = replaced(module, "training_step", around(module.training_step))
    assert is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    assert module.training_step(1, 2) == "around its own"
    assert copy.deepcopy(module).training_step(1, 2) == "its own"
    put_back()
    assert vars(module) == {}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_replacements_of_one_method_go_in_any_order(order: tuple[int, ...]) -> None:
    class Loop:
        def run(self) -> list[int]:
            return []

    loop, ends = Loop(), []
    for i in range(3):
        under = loop.run
        ends.append(replaced(loop, "run", lambda i=i, under=under: [i, *under()]))
    left = [2, 1, 0]
    assert loop.run() == left
    for i in order:
        ends[i]()
        left.remove(i)
        assert loop.run() == left
    assert vars(loop) == {}
