"""Words about growth: the holder's name and the fix are in them, for each kind."""

from __future__ import annotations

import math

import pytest

from lightning_tricks.detection.causes import Cause
from lightning_tricks.diagnosis.memory import Growth
from lightning_tricks.diagnosis.memory_advice import attribute, explained, fix, reason

CASES = {
    "list": (Growth("module.losses", "graph", True, 2e3, 40, 8e4), "40 tensors with their autograd graphs", "self.losses.append(loss.item())"),
    "rows": (Growth("callback Keeps.outputs", "graph", True, 2e3, 40, 8e4, elements=90), "callback Keeps.outputs keeps", "self.outputs.append(x.detach())"),
    "sum": (Growth("module.total", "graph", True, 2e3, 1, 8e4, single=True), "the autograd graph of module.total grows", "self.total += loss.item()"),
    "state": (Growth("module.hidden", "graph", True, 2e3, 1, 8e4, single=True, elements=64), "never detached", "self.hidden = self.hidden.detach()"),
    "traceback": (Growth("module.errors", "graph", True, 2e3, 9, 8e4, traceback=True), "tracebacks keep 9 tensors", "str(error)"),
    "batch": (Growth("module.seen", "batch", True, 2e3, 80, 8e4, elements=90), "80 tensors of earlier batches or outputs", "clear self.seen in each epoch"),
    "metric": (Growth("module.auroc.preds", "metric", True, 2e3, 80, 8e4, metric=True), "never reset", "self.auroc.reset()"),
    "hooks": (Growth("module.net.0._forward_hooks", "hooks", True, 1.0, 12, 0.0), "module.net.0 has 12 hooks", "handle.remove()"),
    "tensors": (Growth("module.replay", "tensors", False, 2e3, 80, 8e4), "module.replay holds 80", "deque(maxlen=...)"),
    "memory": (Growth("", "memory", True, 2e6, 0, 8e9, 3000.0), "full after about 3,000 more", "appended to in each step"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_grows_and_the_line_to_change_are_named(name: str) -> None:
    growth, why, what = CASES[name]
    assert why in reason(growth)
    assert what in fix(growth)


def test_a_verdict_names_three_holders_the_certain_and_fastest_first() -> None:
    growths = [
        Growth("module.slow", "graph", True, 1.0, 9, 9.0),
        Growth("module.replay", "tensors", False, 1e9, 9, 9.0),
        Growth("module.fast", "graph", True, 5.0, 9, 9.0),
        Growth("module.more", "graph", True, 0.5, 9, 9.0),
    ]
    cause, reasons, advice = explained(growths)
    assert cause is Cause.MEMORY_GROWTH
    assert [text.split()[0] for text in reasons] == ["module.fast", "module.slow", "module.more"]
    assert len(advice) == 3


def test_without_a_holder_the_commonest_tensors_are_named() -> None:
    memory = Growth("", "memory", True, 2e6, 0, 8e9, 3000.0)
    assert (
        explained([memory], ["500 of float32 [2, 3]"])[1][-1] == "the commonest live tensors are 500 of float32 [2, 3]"
    )
    named = [memory, Growth("module.x", "batch", True, 2e6, 9, 9.0)]
    assert not any("commonest" in text for text in explained(named, ["500 of float32 [2, 3]"])[1])


def test_growth_on_another_process_points_there() -> None:
    assert explained([])[1] == ("the memory of another process grows",)


def test_memory_that_lasts_to_the_end_of_the_run_is_not_said_to_be_full() -> None:
    assert "full" not in reason(Growth("module.losses", "graph", True, 2e3, 40, 8e4, math.inf))


@pytest.mark.parametrize(
    ("holder", "code"),
    [
        ("module.net.0.cache", "self.net.0.cache"),
        ("datamodule.logs", "self.logs"),
        ("module.remember, variable 'kept'", "kept"),
        ("train.KEPT", "KEPT"),
        ("Net.shared", "shared"),
    ],
)
def test_a_holder_is_written_as_its_code_has_it(holder: str, code: str) -> None:
    assert attribute(holder) == code
