from __future__ import annotations

import warnings
from typing import Any

import pytest

from lightning_tricks import LRFinder
from lightning_tricks.lr_finder.spec import FinderSpec


def test_the_specification_holds_what_is_swept_without_a_trainer() -> None:
    spec = LRFinder(min_lr=1e-3, max_lr=10, num_steps=10, mode="linear").spec
    assert spec.lrs[0] == 1e-3 and spec.lrs[-1] == 10.0 and len(spec.lrs) == 10
    assert type(spec.max_lr) is float
    assert spec.most_updates == 10 and LRFinder(num_steps=10, refine=True).spec.most_updates == 50
    assert LRFinder(probe=False).spec.smoothing > LRFinder().spec.smoothing, "the loss of new batches is noisier"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"min_lr": 0.0}, r"LRFinder\(min_lr=0.0\): min_lr must be > 0"),
        ({"max_lr": 1e-9}, r"LRFinder\(max_lr=1e-09\): max_lr must be > 1e-07"),
        ({"num_steps": 9}, "num_steps must be a whole number >= 10"),
        ({"suggestion": "valey"}, "Did you mean 'valley'"),
        ({"on_low_confidence": "stop"}, "on_low_confidence must be one of keep, raise"),
        ({"mode": "log"}, "mode must be one of exponential, linear"),
    ],
)
def test_a_bad_argument_is_refused_by_name(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FinderSpec(**{**vars(LRFinder().spec), **changed})
    with pytest.raises(ValueError, match=text):
        LRFinder(**changed)


def test_a_state_without_arguments_as_first_written_loads_and_other_arguments_say_nothing() -> None:
    """A resumed run keeps the rates of its checkpoint, so that the arguments of the finder change nothing in it."""
    state = {
        "version": 1,
        "configuration": {},
        "clock": {"version": 1, "attempted": [16], "applied": [16]},
        "state": {"applied": True, "suggestion": 0.0029763514416313195},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LRFinder(num_steps=20).load_state_dict(state)
        LRFinder(num_steps=20).load_state_dict({**state, "configuration": LRFinder(min_lr=1e-5).configuration()})  # type: ignore[attr-defined]
