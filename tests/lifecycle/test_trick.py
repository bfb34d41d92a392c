from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_tricks import AutoClip, GradientClip, GradientMonitor, LRSchedule, TrickError
from tests.problems import Classifier, fit, loader, trainer


def test_before_the_first_fit_there_is_no_run_and_no_state() -> None:
    trick = GradientMonitor()
    assert trick.state_dict() == {}
    with pytest.raises(TrickError, match=r"has not been in a Trainer\.fit yet"):
        trick.run  # noqa: B018


def test_the_state_key_is_class_and_identity_only() -> None:
    assert GradientClip(1.0).state_key == GradientClip(AutoClip(), nonfinite="warn").state_key
    assert GradientClip(1.0, groups={"a": "a"}).state_key != GradientClip(1.0, groups={"b": "b"}).state_key
    assert GradientMonitor().state_key == GradientMonitor(every_n_steps=3).state_key
    assert "LRSchedule" in LRSchedule().state_key


def plain(value: Any) -> bool:
    import torch

    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(plain(v) for v in value)
    return value is None or type(value) in (str, int, float, bool, torch.Tensor)


def test_states_are_plain() -> None:
    tricks = [GradientMonitor(noise_scale=True), GradientClip(AutoClip()), LRSchedule(warmup=1)]
    fit(Classifier(), tricks, accumulate_grad_batches=2)
    for trick in tricks:
        state = trick.state_dict()
        assert plain(state)
        assert state["version"] == 1


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["version", "state", "clock", "configuration", "x"]), json))
def test_a_state_that_is_none_of_ours_is_refused_and_changes_nothing(state: dict[str, Any]) -> None:
    trick = GradientClip(1.0)
    with pytest.raises(ValueError, match="cannot be read by this version"):
        trick.load_state_dict({**state, "version": 2})
    assert trick.__dict__.get("_loaded") is None


def test_a_state_from_an_unknown_version_is_refused(tmp_path: Any) -> None:
    import torch

    first = trainer([GradientClip(1.0)])
    first.fit(Classifier(), loader(16))
    first.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    key = next(k for k in checkpoint["callbacks"] if "GradientClip" in k)
    checkpoint["callbacks"][key]["version"] = 99
    torch.save(checkpoint, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"\(version 99\) cannot be read by this version, which reads version 1"):
        trainer([GradientClip(1.0)], max_epochs=2).fit(Classifier(), loader(16), ckpt_path=tmp_path / "b.ckpt")


def test_clean_up_may_come_twice_and_never_raises() -> None:
    trick = GradientClip(1.0)
    t = fit(Classifier(), [trick], n=16)
    for _ in range(2):
        trick.teardown(t, t.lightning_module, "fit")
        trick.on_exception(t, t.lightning_module, ValueError())


@pytest.mark.parametrize("name", ["DeepSpeedStrategy", "FSDPStrategy", "XLAFSDPStrategy"])
def test_strategies_that_cannot_work_are_refused_by_name(name: str) -> None:
    from lightning.pytorch.strategies import SingleDeviceStrategy

    cls = type(name, (SingleDeviceStrategy,), {})
    for trick in (GradientClip(1.0), GradientMonitor(), LRSchedule()):
        with pytest.raises(TrickError, match=rf"{type(trick).__name__}: {name} is not supported"):
            fit(Classifier(), [trick], strategy=cls("cpu"))
