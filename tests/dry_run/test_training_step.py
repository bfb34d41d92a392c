from __future__ import annotations

import inspect
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tricks.dry_run.training_step import Logged, StepWrapper, logs_kept_back, reduced, replay


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


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-100, 100), st.integers(0, 9)), min_size=2, max_size=6),
    st.sampled_from(["mean", "sum", "min", "max", "avg", torch.mean, torch.sum, torch.max, torch.min, sum, max, min]),
    st.booleans(),
    st.booleans(),
)
def test_parts_log_what_the_whole_batch_logs(
    rows: list[tuple[float, int]], how: Any, on_device: bool, by: bool
) -> None:
    """Each part is so many samples of one value; one of no sample logs NaN, but for a sum, which counts all parts."""
    name = how if isinstance(how, str) else how.__name__
    total = sum(n for _, n in rows)
    values = [v if n or name == "sum" else float("nan") for v, n in rows]
    shares: list[Any] = [n / total if total else 0.0 for _, n in rows]
    if on_device:
        values, shares = [torch.tensor(v) for v in values], [torch.tensor(s) for s in shares]  # type: ignore[misc]
    module = Module()
    options = {"reduce_fx": how, "batch_size": 3}
    arguments = () if by else (False, None, None, None, how)  # as LightningModule.log takes them by position
    calls = [[Logged("x", v, arguments, options if by else {})] for v in values]
    module.log = lambda name, value, *a, **k: module.rows.append((name, float(value), k))  # type: ignore[method-assign]
    replay(module, calls, shares)
    kept = numpy.repeat([v for v, _ in rows], [n for _, n in rows])
    oracle = {"mean": numpy.mean, "avg": numpy.mean, "min": numpy.min, "max": numpy.max}
    expected = sum(v for v, _ in rows) if name == "sum" else oracle[name](kept) if total else numpy.nan
    assert module.rows[0][1] == pytest.approx(float(expected), rel=1e-4, abs=1e-4, nan_ok=True)
    if by:
        assert module.rows[0][2]["batch_size"] == 3 * len(rows)


def test_means_in_half_precision_are_taken_in_float32() -> None:
    parts = [torch.tensor(v, dtype=torch.bfloat16) for v in (256.0, 257.0, 300.0)]
    expected = sum(float(v) for v in parts) / 3
    assert float(reduced(parts, [1 / 3] * 3, "mean")) == pytest.approx(expected, rel=1e-6)
