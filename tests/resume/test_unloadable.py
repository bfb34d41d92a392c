from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import io
import os
import time
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_tricks.resume.findings import Finding
from lightning_tricks.resume.unloadable import is_large, unloadable


class Color(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


Point = collections.namedtuple("Point", "x y")


class Own:
    pass


class Heavy:
    def __init__(self) -> None:
        self.parts = [nn.Linear(1000, 1000), torch.ones(2_000_000), np.ones(2_000_000), b"a" * 2_000_000]


class Angry:
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


VALUES = [
    1, 2**100, 1.5, float("inf"), True, None, "a", b"a", bytearray(b"a"), 1j, [1], (1, 2), {"a": 1}, {1: 2}, {1, 2},
    collections.OrderedDict(a=1), collections.Counter("ab"), torch.ones(2), nn.Parameter(torch.ones(2)), torch.float16,
    torch.device("cpu"), torch.Size([1]), torch.strided, torch.get_rng_state(), np.float32(1), np.float64(2), np.int64(3),
    np.zeros(3), np.zeros(100_000), np.dtype("f4"), PurePosixPath("a"), collections.deque([1]), range(3), frozenset([1]),
    collections.defaultdict(int), Color.RED, Number.ONE, Point(1, 2), datetime.timedelta(1), decimal.Decimal(1), slice(1),
    Own(), len, nn.Linear(2, 2), nn.Linear(500, 500), argparse.Namespace(a=1), ..., Own, Angry(), lambda: 1,
]  # fmt: skip


def refused(value: Any) -> bool:
    """The oracle: torch itself."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception:
        return True
    return False


def reported(values: dict[str, Any]) -> list[str]:
    return [" ".join(f.what.split(" ")[: f.what.split(" ").index("will")]) for f in unloadable(values)]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize(
    "within", [lambda v: v, lambda v: [0, v], lambda v: {"b": (v,)}], ids=["alone", "list", "dict"]
)
def test_what_torch_refuses_is_found_and_nothing_else(value: Any, within: Any) -> None:
    assert bool(unloadable({"a": within(value)})) == refused(within(value))


def test_a_key_path_and_a_type_are_named() -> None:
    values = {
        "hyper_parameters": {"root": PurePosixPath("x"), "ok": 1, "deep": [{"a": (np.float32(1),)}]},
        "callbacks": {"Bad": {"ema": np.float32(1), Color.RED: 1, "module": nn.Linear(1, 1)}},
    }
    assert reported(values) == [
        "['hyper_parameters']['root'] PurePosixPath",
        "['hyper_parameters']['deep'][0]['a'][0] float32",
        "['callbacks']['Bad'] key <Color.RED: 1> Color",
        "['callbacks']['Bad']['ema'] float32",
        "['callbacks']['Bad']['module'] Linear",
    ]


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (PurePosixPath("a"), "Save str(path)"),
        (np.float32(1), "Save x.item()"),
        (np.zeros(2), "Save torch.as_tensor(x)"),
        (Color.RED, "Save its .value"),
        (collections.deque(), "Save list(x)"),
        (collections.defaultdict(int), "Save dict(x)"),
        (Finding("a", "b"), "Save dataclasses.asdict(x)"),
        (nn.Linear(1, 1), "Leave it out: save_hyperparameters(ignore=[...])"),
        (Own(), "Save numbers, texts, lists, dicts and tensors"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_each_type_has_its_fix(value: Any, fix: str) -> None:
    (found,) = unloadable({"a": value})
    assert found.fix.startswith(f"{fix}, or load with fit(..., weights_only=False)")


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        (Path("a"), str),
        (np.float32(1), lambda x: x.item()),
        (np.zeros(2), torch.as_tensor),
        (Color.RED, lambda x: x.value),
        (collections.deque([1]), list),
        (collections.defaultdict(int, a=1), dict),
    ],
    ids=lambda x: type(x).__name__,
)
def test_the_fixes_load(value: Any, instead: Any) -> None:
    assert refused(value) and not refused(instead(value))


def test_many_findings_are_counted_and_not_all_shown() -> None:
    found = unloadable({"a": [np.float32(i) for i in range(20)] + [Color.RED]})
    assert len(found) == 9
    assert found[-1].what == "13 more values will not load (Color, float32)"


def test_what_the_user_allowed_is_no_finding() -> None:
    assert unloadable({"a": Own(), "b": nn.Linear(2, 2), "c": [Own()]})
    with torch.serialization.safe_globals([Own]):
        assert not unloadable({"a": Own(), "c": [Own(), Own()]})
        broken = Own()
        broken.path = Path("a")  # type: ignore[attr-defined]
        assert [f.what[:10] for f in unloadable({"a": broken, "b": Own()})] == ["['a'] Own "]
        large = Own()
        large.text = "a" * 100_000  # type: ignore[attr-defined]
        assert not unloadable({"a": large}), "its class is allowed, and it is too large to try"


@pytest.mark.parametrize(
    ("large", "value"),
    [
        (False, {"a": torch.ones(10), "b": [1] * 100}),
        (False, np.ones(10)),
        (False, Point([1], "a")),
        (True, torch.ones(100_000)),
        (True, np.ones(100_000)[::-1]),
        (True, [np.arange(100) for _ in range(2000)]),
        (True, [object() for _ in range(3000)]),
        (True, {"a": {"b": frozenset(range(3000))}}),
        (True, "a" * 100_000),
        (True, os),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("slots", [False, True])
def test_what_is_too_large_to_try_is_estimated(large: bool, value: Any, slots: bool) -> None:
    class Slots:
        __slots__ = ("value",)

    holder: Any = Slots() if slots else Own()
    holder.value = value
    assert is_large(holder) == is_large(collections.deque([value])) == large


def test_an_object_that_does_not_let_itself_be_looked_at_is_judged_by_its_class() -> None:
    class Shy:
        def __sizeof__(self) -> int:
            raise RuntimeError("no")

    assert [f.what[:9] for f in unloadable({"a": Shy()})] == ["['a'] Shy"]


def test_weights_are_never_serialised_and_a_long_history_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(torch, "save", lambda value, file: saved.append(value))
    started = time.thread_time()
    found = unloadable(
        {
            "a": [Heavy()],
            "module": nn.Linear(2000, 2000),
            "array": np.ones(2_000_000),
            "history": list(range(1_000_000)),
            "tensor": torch.ones(2_000_000),
            "many": [list(range(3000)), Own(), collections.deque(range(5000))],
        }
    )
    assert time.thread_time() - started < 0.5
    assert [type(value) for value in saved] == [Own]
    assert [f.what.split(" ")[1] for f in found] == ["Heavy", "Linear", "ndarray", "Own", "deque"]


def test_a_value_that_contains_itself_ends() -> None:
    values: dict[str, Any] = {"a": [1, Color.RED]}
    values["a"].append(values)
    assert reported(values) == ["['a'][1] Color"]


def test_after_many_trials_the_rest_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]

    def loads(value: object) -> bool:
        count[0] += 1
        return True

    monkeypatch.setattr("lightning_tricks.resume.unloadable.loads", loads)
    assert not unloadable({"a": [torch.strided] * 500})
    assert count[0] == 50
