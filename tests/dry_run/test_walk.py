from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightning_tricks.dry_run.places import Limits
from lightning_tricks.dry_run.walk import Walk


def test_everything_is_seen_once_also_in_a_circle() -> None:
    module = nn.Linear(1, 1)
    module.myself = [module]  # type: ignore[assignment]
    module.again = module.weight
    walk = Walk()
    walk.add("module", module)
    walk.add("another name", module)
    walk.run()
    assert len(walk.tensors) == 2
    assert len({id(record) for _, record in walk.records}) == len(walk.records)


def test_no_code_of_the_object_runs() -> None:
    class Touchy:
        def __init__(self) -> None:
            vars(self)["inner"] = [1]

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

        @property
        def costly(self) -> Any:
            raise AssertionError("computed")

    walk = Walk()
    walk.add("touchy", Touchy())
    walk.run()
    assert len(walk.records) == 2 and not walk.obstacles


def test_limits_stop_the_walk_at_the_largest() -> None:
    walk = Walk(Limits(objects=100))
    walk.add("module", {"small": [[1]], "large": [[i] for i in range(1000)]})
    walk.run()
    assert str(walk.obstacles[0]) == "module['large'] is too large to be looked through (1,000 items)"
    slow = Walk(Limits(seconds=-1.0))
    slow.add("module", [[i] for i in range(10_000)])
    slow.run()
    assert len(slow.obstacles) == 1


def test_data_beyond_the_limits_are_left_as_they_are() -> None:
    class Rows(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.rows = [[i] for i in range(1000)]

    walk = Walk(Limits(objects=100))
    walk.add("data", Rows(), data=True)
    walk.add("module", nn.Linear(1, 1))
    walk.run()
    assert not walk.obstacles and len(walk.tensors) == 2


def test_weak_references_and_views_are_values() -> None:
    import weakref

    module = nn.Linear(1, 1)
    module.others = weakref.WeakValueDictionary({"a": module})  # type: ignore[assignment]
    module.keys, module.itself = {"a": 1}.keys(), weakref.proxy(module)  # type: ignore[assignment]
    walk = Walk()
    walk.add("module", module)
    walk.run()
    assert not walk.obstacles
