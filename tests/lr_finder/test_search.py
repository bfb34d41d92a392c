from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from lightning_tricks import LRFinder
from lightning_tricks.errors import NonFiniteError
from lightning_tricks.lr_finder.search import FinderSpec, find_rate, loss_after_training, one_update, swept


class Fake:
    """A dry run whose losses are a known function of the rate."""

    def __init__(self, of: Any, start: float = 2.0) -> None:
        self.of, self.start = of, start
        self.optimizer = torch.optim.SGD(
            [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)], lr=1.0
        )
        self.steps = self
        self.restarts, self.used = 0, []  # type: ignore[var-annotated]

    def probe(self) -> float:
        return self.of(self.used[-1][0]) if self.used else self.start

    def update(self) -> float:
        self.used.append([group["lr"] for group in self.optimizer.param_groups])
        value = self.of(self.used[-1][0])
        if isinstance(value, Exception):
            raise value
        return value

    def restart(self) -> None:
        self.restarts += 1

    def weights_finite(self) -> bool:
        return True


def fall(lr: float) -> float:
    """Falls from 2 at 1e-3 to 1 at 0.1, and rises steeply after it."""
    x = (math.log10(lr) + 3.0) / 2.0
    return 2.0 if x < 0 else 2.0 - x if x <= 1 else 1.0 + 40.0 * (x - 1.0) ** 2


def test_a_sweep_uses_every_rate_once_keeps_the_ratios_and_stops_where_the_loss_diverges() -> None:
    spec, steps = LRFinder(num_steps=80).spec, [0]
    dry_run = Fake(fall)
    found = swept(spec, dry_run, [0.1, 0.2], lambda: steps.append(1))  # type: ignore[arg-type]
    assert [row[0] for row in dry_run.used] == pytest.approx(spec.lrs[: len(dry_run.used)])
    assert all(second == pytest.approx(2.0 * first) for first, second in dry_run.used)
    assert len(steps) - 1 == len(dry_run.used) == len(found.lrs) < 80 and found.diverged
    assert found.confident and found.first_loss == 2.0


def test_a_sweep_ends_at_a_loss_that_is_not_finite_or_a_clip_that_refuses() -> None:
    last: Any
    for last in (math.nan, NonFiniteError("no")):

        def broken(lr: float, last: Any = last) -> Any:
            return fall(lr) if lr < 0.5 else last

        found = swept(LRFinder(num_steps=80).spec, Fake(broken), [1.0, 1.0], int)  # type: ignore
        assert found.diverged and max(found.lrs) < 0.5


def test_the_first_loss_without_a_probe_is_that_of_the_first_batch() -> None:
    found = swept(LRFinder(num_steps=40, probe=False).spec, Fake(fall, start=77.0), [1.0, 1.0], int)  # type: ignore
    assert found.first_loss == 2.0


def test_the_bake_off_trains_each_candidate_from_the_same_state() -> None:
    spec, dry_run = LRFinder(num_steps=40, refine=True).spec, Fake(fall)
    found = find_rate(spec, dry_run, [0.1, 0.2], int)  # type: ignore[arg-type]
    assert dry_run.restarts == len(found.bake_off) == 4
    assert found.bake_off == {lr: pytest.approx(fall(lr)) for lr in found.bake_off}
    plain = find_rate(LRFinder(num_steps=40).spec, Fake(fall), [0.1, 0.2], int)  # type: ignore[arg-type]
    assert plain.bake_off == {} and plain.lrs == found.lrs


def test_an_error_before_any_loss_is_the_users_own() -> None:
    with pytest.raises(ValueError, match="boom"):
        one_update(Fake(lambda lr: ValueError("boom")), True, begun=False)  # type: ignore[arg-type]


def test_a_candidate_that_diverges_or_breaks_the_model_loses_the_bake_off() -> None:
    class Losses:
        def __init__(self, losses: list[Any], finite: bool = False) -> None:
            self.losses, self.finite = iter(losses), finite
            self.steps = self

        def update(self) -> Any:
            loss = next(self.losses)
            if isinstance(loss, Exception):
                raise loss
            return loss

        def weights_finite(self) -> bool:
            return self.finite

    steps: list[int] = []

    def trained(*arguments: Any) -> float:
        return loss_after_training(Losses(*arguments), 12, False, lambda: steps.append(1))  # type: ignore[arg-type]

    assert trained([float(i) for i in range(12)]) == sum(range(2, 12)) / 10
    assert trained([5.0, None, *[1.0] * 10]) == 1.0, "a batch without a loss is left out"
    assert trained([1.0, float("nan")]) == float("inf")
    assert trained([1.0, ValueError("Expected parameter loc to be finite")]) == float("inf")
    assert len(steps) == 12 + 12 + 2 + 2
    with pytest.raises(ValueError, match="boom"):
        trained([1.0, ValueError("boom")], True)


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
