"""Who only watches changes nothing: weights, buffers and random numbers are those of the run without it, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_tricks import GradientClip
from tests.laws.strategies import CALLBACKS, OPTIMIZERS, Drawing, example, law
from tests.matrix import ACTORS, OBSERVERS, REFUSES, VARIANTS
from tests.problems import Memory, fit

pytestmark = pytest.mark.filterwarnings("ignore")

# an actor that was told not to act is an observer
IDLE: dict[str, dict[str, Any]] = {
    "LRFinder": {"apply": False},
    "GradientAccumulation": {"batches": 1},
    "LossScaleGuard": {},
}
VIGILANT = {"GradientMonitor": {"update_ratio": True, "histograms": True, "norm_type": 1.0, "groups": {"last": r"4\."}}}
# these end a run, which is their purpose, or name what this network has not
LEFT_OUT = {"action", "on_failure", "mode", "generator", "output", "target", "sample"}


def watcher(name: str, varied: bool, accumulate: int) -> Any:
    """An observer with its example's arguments, or with all those that differ from them."""
    more = {k: v for k, v in VARIANTS[name].items() if k not in LEFT_OUT} if varied and name in OBSERVERS else {}
    more |= VIGILANT.get(name, {}) if varied else {}
    more |= IDLE.get(name, {})
    if "noise_scale" in more and accumulate == 1:
        more["noise_scale"] = False  # it needs micro-batches
    return example(name, **more)


def test_every_actor_is_a_callback() -> None:
    assert set(CALLBACKS) > ACTORS
    assert set(IDLE) <= ACTORS


@given(
    watching=st.lists(st.sampled_from([*OBSERVERS, *IDLE]), min_size=1, unique=True),
    varied=st.booleans(),
    kind=st.sampled_from(sorted(OPTIMIZERS)),
    precision=st.sampled_from(["32-true", "bf16-mixed", "16-mixed", "64-true"]),
    accumulate=st.integers(1, 3),
    clip=st.sampled_from(["none", "by Lightning", "by us"]),
    manual=st.booleans(),
    every=st.sampled_from([0, 1, 2, 5]),
)
@law(60)
def test_who_only_watches_is_not_there(
    watching: list[str],
    varied: bool,
    kind: str,
    precision: str,
    accumulate: int,
    clip: str,
    manual: bool,
    every: int,
) -> None:
    if accumulate > 1:
        watching = [name for name in watching if name != "GradientAccumulation"]
    if manual:
        watching = [name for name in watching if "manual" not in REFUSES.get(name, {})]
        accumulate = 1
    by_lightning = clip == "by Lightning" and not manual and not ("mixed" in precision and "fused" in kind)
    arguments: dict[str, Any] = {
        "precision": precision,
        "accumulate_grad_batches": accumulate,
        "gradient_clip_val": 0.5 if by_lightning else None,
        "log_every_n_steps": every,
        "max_epochs": 2,
    }

    def outcome(callbacks: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        module = Drawing(OPTIMIZERS[kind], manual=manual)
        fit(module, callbacks, n=40, **arguments, logger=Memory())
        return module.everything(), torch.rand(4)

    base = [GradientClip(0.5)] if clip == "by us" else []
    alone = outcome(list(base))
    watched = outcome([*(watcher(name, varied, accumulate) for name in watching), *base])
    assert torch.equal(alone[0], watched[0]), "weights and buffers"
    if "GenerationDrift" not in watching:  # the module's own ``sample`` draws
        assert torch.equal(alone[1], watched[1]), "random numbers"
