"""State: what is saved comes back; N and N updates are 2N; and nothing that is loaded can do harm."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks import ExactResume, TrickError
from tests.faults.problems import Logging, arguments, example, places, put, state_of
from tests.laws.strategies import CALLBACKS, law, same
from tests.problems import STRICT, fit, loader, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")

BATCHES = 6  # of an epoch; two epochs in a run
CHECKPOINT = Path("a.ckpt")


class Probe(L.Callback):
    """Looks at a callback's state when training begins and ends, and saves after some update."""

    def __init__(self, trick: Any, at: int = 0) -> None:
        self.trick, self.at, self.batches = trick, at, 0
        self.began: dict[str, Any] = {}
        self.ended: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.began = copy.deepcopy(self.trick.state_dict())

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.batches += 1
        if self.batches == self.at:
            trainer.save_checkpoint(CHECKPOINT)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.ended = copy.deepcopy(self.trick.state_dict())


def run(name: str, at: int = 0, **given: Any) -> tuple[Probe, Any]:
    trick, module = example(name), Logging()
    probe = Probe(trick, at)
    beside = [] if name == "ExactResume" else [ExactResume()]
    t = trainer([trick, *beside, probe], max_epochs=2, **arguments(name))
    torch.manual_seed(0)  # samplers and samples draw
    t.fit(module, loader(32 * BATCHES, 32), **given)
    return probe, module


@pytest.mark.parametrize("name", CALLBACKS)
@given(at=st.integers(1, 2 * BATCHES - 1))
@law(4)
def test_a_state_comes_back_as_it_was_saved_and_goes_on_as_if_never_interrupted(name: str, at: int) -> None:
    if name == "GradientMonitor":
        at = 2 * ((at + 1) // 2)  # its micro-batches: an update's end
    if name == "GenerationDrift" and at == BATCHES:
        at += 1  # saved before the end of an epoch, which Lightning does not tell callbacks again after a resume
    whole, module = run(name, at)
    saved = torch.load(CHECKPOINT, weights_only=True)
    state = next(v for k, v in saved["callbacks"].items() if k.startswith(name))
    part, resumed = run(name, ckpt_path=CHECKPOINT, **STRICT)
    for key in ("version", "configuration", "clock"):
        assert same(part.began[key], state[key]), key
    if name != "ExactResume":  # its state is where the run is, which is put back when the first batch is asked for
        assert same(lasting(part.began), lasting(state)), "what was saved"
    assert same(lasting(part.ended), lasting(whole.ended)), "its history"
    assert torch.equal(weights(resumed), weights(module))


def lasting(state: Any) -> Any:
    """A state without what a clock on the wall says, and what is measured on a batch that a checkpoint does not hold."""
    if isinstance(state, list):
        return [lasting(v) for v in state if not (isinstance(v, dict) and v.get("kind") == "waiting for data")]
    if isinstance(state, dict):
        return {k: lasting(v) for k, v in state.items() if k not in ("elapsed", "waiting", "fixed_batch_loss")}
    return state


# -- anything at all ----------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(torch.zeros(2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@functools.cache
def untouched(name: str) -> torch.Tensor:
    module = Logging()
    fit(module, [example(name)], n=32, **arguments(name))
    return weights(module)


def try_it(name: str, state: Any) -> None:
    """Load and train: it is refused in one line and leaves no trace, or it is taken and does no harm."""
    trick, module = example(name), Logging()
    try:
        trick.load_state_dict(state)
    except ValueError as error:
        assert str(error).startswith(f"{name}: ") and "\n" not in str(error)
        fit(module, [trick], n=32, **arguments(name))
        assert torch.equal(weights(module), untouched(name)), "a state that was refused has left a trace"
        return
    try:
        fit(module, [trick], n=32, **arguments(name))
    except TrickError as error:
        assert "\n" not in str(error)
        return
    assert weights(module).isfinite().all()


@given(st.sampled_from(CALLBACKS), plain | st.dictionaries(st.sampled_from(["version", "state", "clock"]), plain))
@law(40)
def test_any_plain_value_is_refused_and_leaves_no_trace(name: str, state: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        example(name).load_state_dict(state)
    try_it(name, state)


@given(st.sampled_from(CALLBACKS), st.data())
@law(120)
def test_a_true_state_with_anything_anywhere_is_refused_or_does_no_harm(name: str, data: Any) -> None:
    state = state_of(name)
    for _ in range(data.draw(st.integers(1, 2), label="how many")):
        # (what a module holds is its own matter: None may stand where a number was)
        found = [path for path in places(state) if path and path[:2] != ("state", "batch") and "held" not in path[:-1]]
        state = put(state, data.draw(st.sampled_from(found), label="where"), data.draw(plain, label="what"))
    try_it(name, state)


@given(st.sampled_from(CALLBACKS), st.sampled_from(CALLBACKS))
@law(40)
def test_the_state_of_another_callback_is_refused_or_does_no_harm(name: str, other: str) -> None:
    try_it(name, state_of(other))
