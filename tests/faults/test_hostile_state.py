"""A checkpoint is what somebody sent: no state in it may run code, end in an error from the depths, or train on rubbish.

The real state of every callback after a short fit is damaged in every way at every key, loaded, and trained on. It must
be refused by name with a way out, or the fit must go through with finite weights.
"""

from __future__ import annotations

import functools
import io
import math
import pickle
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lightning_tricks
from lightning_tricks import GradientMonitor, LRSchedule, Rollback, TrainingDoctor, TrickError
from lightning_tricks.errors import TrickError as OurError
from tests.faults.problems import Logging, arguments, example, places, put, state_of, taken
from tests.matrix import EXAMPLES
from tests.problems import STRICT, Classifier, fit, loader, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")

CALLBACKS = sorted(EXAMPLES)


def dropped(state: Any, path: tuple[Any, ...]) -> Any:
    owner = functools.reduce(lambda held, key: held[key], path[:-1], state)
    del owner[path[-1]]
    return state


WRONG: dict[str, Any] = {
    "none": None,
    "text": "x",
    "bytes": b"x",
    "minus one": -1,
    "huge": 10**30,
    "nan": math.nan,
    "inf": math.inf,
    "bool": True,
    "list": [],
    "list of lists": [[["x"]]],
    "dict": {},
    "dict of numbers": {3: 4},
    "tensor": torch.zeros(3),
    "tensor of nan": torch.full((2, 2), math.nan),
    "long list": [0.5] * 1_500_000,
}


def outcome(name: str, state: Any) -> str:
    """Load, train on; return what happened, or fail."""
    trick = example(name)
    module = Logging()
    try:
        trick.load_state_dict(state)
        fit(module, [trick], n=64, **arguments(name))
    except (TrickError, ValueError) as error:
        text = str(error)
        assert "\n" not in text and len(text) < 700, text
        assert re.match(rf"(\w+: )?{name}\b", text) or name in text, text
        assert re.search(r"\. [A-Z]\w+ .*[.?]$", text), f"no way out: {text}"
        return "refused"
    assert weights(module).isfinite().all(), "trained on rubbish"
    return "trained"


def damages(name: str) -> Iterator[tuple[str, Any]]:
    for path in places(taken(name)):
        if path[:3] == ("state", "batch", 0):
            continue  # what is in a batch is the module's matter
        for kind, wrong in WRONG.items():
            if path[:2] == ("state", "batch") and kind != "none":
                continue
            yield f"{path} = {kind}", lambda path=path, wrong=wrong: put(state_of(name), path, wrong)
        if path:
            yield f"{path} is missing", lambda path=path: dropped(state_of(name), path)
            owner = functools.reduce(lambda held, key: held[key], path, taken(name))
            if isinstance(owner, dict):
                yield f"{path} has more", lambda path=path: put(state_of(name), (*path, "unknown"), [1])
    for version in (0, 2, "1", None, 1.5):
        yield f"version {version!r}", lambda version=version: put(state_of(name), ("version",), version)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_state_that_is_damaged_anywhere_is_refused_by_name_or_does_no_harm(name: str) -> None:
    """All damages are loaded; of those that are not refused at once, a dozen are trained on, drawn by chance."""
    left, refused, wrong = [], 0, []
    for what, make in damages(name):
        try:
            example(name).load_state_dict(make())
            left.append((what, make))
        except ValueError as error:
            refused += 1
            if "\n" in str(error) or not re.match(rf"{name}: .*\. [A-Z]\w+ .*\.$", str(error)):
                wrong.append(f"{what}: {error}")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
    for what, make in random.Random(name).sample(left, min(8, len(left))):
        try:
            outcome(name, make())
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
    assert refused > len(left) / 2


@pytest.mark.parametrize("name", CALLBACKS)
def test_an_undamaged_state_is_taken(name: str) -> None:
    assert outcome(name, state_of(name)) == "trained"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["version", "configuration", "clock", "state", "x"]), _JSON), _JSON)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_any_tree_of_plain_values_is_refused_with_a_clear_error(tree: dict[str, Any], inner: Any) -> None:
    for name in CALLBACKS:
        for state in (tree, inner, {**state_of("ProgressMetrics"), "state": inner}):
            try:
                example(name).load_state_dict(state)
            except ValueError as error:
                assert str(error).startswith(f"{name}: ")


def test_a_damaged_state_is_refused_by_a_trainer_that_resumes_too(tmp_path: Path) -> None:
    t = fit(Classifier(), [GradientMonitor(), LRSchedule(warmup=2)], n=32)
    t.save_checkpoint(tmp_path / "a.ckpt")
    whole = torch.load(tmp_path / "a.ckpt", weights_only=True)
    key = next(k for k in whole["callbacks"] if k.startswith("LRSchedule"))
    whole["callbacks"][key]["state"]["base"] = [[["0.1", 0.0]]]
    torch.save(whole, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"LRSchedule: the checkpoint's state\['base'\].*start from scratch\.$"):
        trainer([GradientMonitor(), LRSchedule(warmup=2)]).fit(Classifier(), loader(32), ckpt_path=tmp_path / "b.ckpt")


def test_rollback_states_of_another_model_are_refused() -> None:
    state = state_of("TrainingDoctor")
    kept = state["state"]["rescue"]["states"] or [state["state"]["rescue"]["first"]]
    kept[0]["state"]["parameters"]["net.0.weight"] = torch.zeros(2, 2)
    trick = TrainingDoctor(2, Rollback())
    trick.load_state_dict(state)
    with pytest.raises(TrickError, match=r"TrainingDoctor: .*those of another model.*start from scratch\.$"):
        fit(Logging(), [trick], n=64)


@pytest.mark.parametrize("key", ["alarmed", "streak"])
def test_an_alarm_without_a_begin_is_refused(key: str) -> None:
    state = state_of("DeadUnits")
    state["state"]["alarms"]["dead"][key] = True if key == "alarmed" else 2
    trick = example("DeadUnits")
    trick.load_state_dict(state)
    with pytest.raises(TrickError, match=r"DeadUnits: .*an alarm without a beginning.*start from scratch\.$"):
        fit(Logging(), [trick], n=16)


@pytest.mark.parametrize("sums", [{"largest/net.1/24": torch.zeros(3)}, {"magnitude/net.1/24": torch.zeros(2, 2)}])
def test_samples_in_a_checkpoint_that_do_not_fit_are_gathered_anew(sums: dict[str, Any]) -> None:
    state = state_of("DeadUnits")
    state["state"]["sums"] |= sums
    trick, module = example("DeadUnits"), Logging()
    trick.load_state_dict(state)
    with pytest.warns(lightning_tricks.TrickWarning, match="New ones are gathered"):
        fit(module, [trick], n=800)
    assert trick.history
    assert weights(module).isfinite().all()


def test_what_a_plateau_has_seen_lowers_no_rate_of_another_decay() -> None:
    state = state_of("LRSchedule")
    state["state"]["plateau"] = {**lightning_tricks.Plateau("loss").init(), "multiplier": 0.001}
    trick, module = LRSchedule("constant", warmup=0), Classifier()
    trick.load_state_dict(state)
    t = fit(module, [trick], n=64)
    assert t.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


# -- files --------------------------------------------------------------------------------------------------------------


@functools.cache
def checkpoint() -> bytes:
    tricks = [example(n) for n in ("GradientClip", "LRSchedule", "DeadUnits", "TrainingDoctor")]
    t = fit(Logging(), tricks, n=32)
    stream = io.BytesIO()
    torch.save({"callbacks": {c.state_key: c.state_dict() for c in tricks}, "step": t.global_step}, stream)
    return stream.getvalue()


def read(data: bytes) -> str:
    """Load a checkpoint's bytes as Lightning does under ``weights_only``, and give the callbacks what is in it."""
    try:
        tree = torch.load(io.BytesIO(data), weights_only=True)
        states = dict(tree["callbacks"])
    except Exception:  # torch's own refusal: nothing has reached us
        return "unreadable"
    for name in ("GradientClip", "LRSchedule", "DeadUnits", "TrainingDoctor"):
        trick = example(name)
        try:
            trick.load_state_dict(states.get(trick.state_key, {}))
        except (ValueError, OurError) as error:
            assert str(error).startswith(name)
    return "read"


def test_a_file_that_is_cut_off_anywhere_is_unreadable() -> None:
    data = checkpoint()
    assert read(data) == "read"
    for i in range(100):
        assert read(data[: len(data) * i // 100]) == "unreadable"


def test_a_file_with_one_other_byte_is_unreadable_or_refused_by_name_or_harmless() -> None:
    data, chance = checkpoint(), random.Random(0)
    for _ in range(100):
        at = chance.randrange(len(data))
        read(data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :])


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("boom"),))


def test_a_hostile_pickle_does_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    t = fit(Classifier(), [GradientMonitor()], n=16)
    t.save_checkpoint("a.ckpt")
    whole = torch.load("a.ckpt", weights_only=True)
    key = next(iter(whole["callbacks"]))
    whole["callbacks"][key]["state"]["noise"] = Bomb()
    torch.save(whole, "b.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        trainer([GradientMonitor()]).fit(Classifier(), loader(16), ckpt_path="b.ckpt", **STRICT)
    assert not Path("boom").exists()


def test_a_state_of_more_optimizers_is_refused() -> None:
    state = state_of("GradientClip")
    state["clock"] = {"version": 1, "attempted": [8, 8], "applied": [8, 8]}
    trick = example("GradientClip")
    trick.load_state_dict(state)
    with pytest.raises(TrickError, match=r"2 optimizers were counted before.*start without the checkpoint\.$"):
        fit(Logging(), [trick], n=16)
