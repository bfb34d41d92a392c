"""Schedules: curves that join, peak, fall and end as promised; and a fit that walks along them, however it is cut."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_tricks import LRSchedule, OneCycle, Plateau
from lightning_tricks.decays import Join, Phase
from lightning_tricks.schedules.phases import DECAYS
from lightning_tricks.schedules.plan import whole_curve
from tests.laws.strategies import law
from tests.problems import STRICT, Classifier, fit, loader, sgd, trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")

FALLING = sorted(set(DECAYS) - {"cosine_restarts", "linear_cosine", "one_cycle", "noam", "plateau"})
TO_ZERO = ["cosine", "linear", "one_minus_sqrt", "polynomial"]  # these reach 0, or ``final``, at the end
SMOOTH = ["cosine", "linear", "polynomial"]
shapes = st.sampled_from(["linear", "cosine", "exponential"])


def curve(decay: str, warmup: int, hold: int, final: float, total: int, shape: str = "linear") -> Any:
    final = final if DECAYS[decay].takes_final else 0.0
    schedule = LRSchedule(decay, warmup=warmup, hold=hold, final=final, warmup_shape=shape, warmup_start=0.01)
    return whole_curve(schedule.spec, total)


@given(st.sampled_from(FALLING), st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.integers(2, 80), shapes)
@law(200)
def test_a_curve_rises_to_1_stays_there_and_falls(
    decay: str, warmup: int, hold: int, final: float, length: int, shape: str
) -> None:
    total = warmup + hold + length
    drawn = curve(decay, warmup, hold, final, total, shape)
    values = [drawn.value(k) for k in range(total + 1)]
    begun = warmup + hold
    assert values[:warmup] == sorted(values[:warmup]), "the warm-up rises"
    assert values[max(0, warmup - 1) : begun] == pytest.approx([1.0] * (begun - max(0, warmup - 1))), "its end, hold"
    if decay not in ("step", "multistep", "piecewise"):  # stairs may begin with a step down
        assert values[begun] == pytest.approx(1.0), "the decay begins where the hold ends"
    assert all(a >= b - 1e-12 for a, b in zip(values[begun:], values[begun + 1 :], strict=False)), "the decay falls"
    assert max(values) <= 1.0 + 1e-12
    if decay in TO_ZERO:
        assert values[total] == pytest.approx(final, abs=1e-12)
    assert drawn.value(total + 1000) == values[total], "past the end it stays"


@given(st.sampled_from(SMOOTH), st.integers(1, 300), st.integers(0, 300), st.integers(1, 300), st.sampled_from([3, 10]))
@law(100)
def test_no_jump_at_a_joint_however_fine_the_updates(
    decay: str, warmup: int, hold: int, length: int, finer: int
) -> None:
    """All three parts are continuous functions of time: ``finer`` times as many updates, at most so much smaller."""
    total = (warmup + hold + length) * finer
    values = LRSchedule(decay, warmup=warmup * finer, hold=hold * finer).values(total)
    steepest = max(1.0 / (warmup * finer), math.pi / 2 / (length * finer))
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) <= steepest + 1e-12


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 1)), min_size=1, max_size=5), st.floats(0, 1))
@law(80)
def test_joined_phases_pass_through_the_points_that_they_name(parts: list[tuple[int, float]], start: float) -> None:
    heights = [start, *(end for _, end in parts)]
    phases = [Phase("linear", n, start=heights[i], end=end) for i, (n, end) in enumerate(parts)]
    total = sum(n for n, _ in parts)
    drawn, at = whole_curve(LRSchedule(Join(phases)).spec, total), 0
    for i, (n, end) in enumerate(parts):
        for k in range(n + 1):  # both ends of a phase: the joint seen from either side
            assert drawn.value(at + k) == pytest.approx(heights[i] + (end - heights[i]) * k / n, abs=1e-12)
        at += n


@given(
    st.integers(4, 200), st.floats(0.1, 0.9), st.floats(2, 50), st.floats(1, 1e4), st.sampled_from(["cos", "linear"])
)
@law(60)
def test_one_cycle_is_torchs(total: int, share: float, div: float, final_div: float, anneal: str) -> None:
    assume(share * total > 1.5)
    optimizer = sgd([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total, pct_start=share, div_factor=div, final_div_factor=final_div, anneal_strategy=anneal,
        cycle_momentum=False,
    )  # fmt: skip
    wanted = []
    for _ in range(total):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle._step_count < total and oracle.step()
    values = LRSchedule(OneCycle(share, div, final_div, anneal)).values(total)
    assert values == pytest.approx(wanted[: len(values)], abs=1e-9)


# -- fits -----------------------------------------------------------------------------------------------------------


class Rates(L.Callback):
    """The rate of each step that the optimizer really makes, written down by a hook of its own."""

    def __init__(self, at: int | None = None, path: Path | None = None) -> None:
        self.seen: list[float] = []
        self.at, self.path = at, path

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        optimizer = trainer.optimizers[0]
        self.handle = optimizer.register_step_pre_hook(lambda o, a, k: self.seen.append(float(o.param_groups[0]["lr"])))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.at is not None and len(self.seen) == self.at and not Path(str(self.path)).exists():
            trainer.save_checkpoint(self.path)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.handle.remove()


def formula(update: int, warmup: int, total: int) -> float:
    """Linear warm-up, then cosine to 0, of a base rate of 0.05."""
    if update < warmup:
        return 0.05 * (update + 1) / warmup
    x = min(update - warmup, total - warmup) / max(1, total - warmup)
    return 0.05 * (1 + math.cos(math.pi * x)) / 2


def walk(
    schedule: LRSchedule, batches: int, epochs: int, window: int = 1, fused: bool = False, **more: Any
) -> list[float]:
    rates = Rates()
    module = Classifier(lambda p: sgd(p, fused=fused), spoil=more.pop("spoil", None))
    arguments = {"max_epochs": epochs, "accumulate_grad_batches": window, **more}
    fit(module, [schedule, rates], n=2 * batches, batch=2, **arguments)
    return rates.seen


@given(st.sampled_from([6, 12, 16]), st.integers(0, 6), st.integers(1, 3), st.booleans())
@law(15)
def test_however_updates_are_split_into_epochs_and_windows_the_rates_are_the_same(
    total: int, warmup: int, window: int, fused: bool
) -> None:
    wanted = [formula(k, warmup, total) for k in range(total)]
    for epochs in (e for e in range(1, total + 1) if total % e == 0):
        seen = walk(LRSchedule("cosine", warmup=warmup), window * total // epochs, epochs, window, fused)
        assert seen == pytest.approx(wanted, rel=1e-6, abs=1e-9), f"{epochs} epochs"


@given(st.integers(1, 11), st.integers(0, 6), st.sampled_from([(12, 1), (4, 3), (3, 4)]))
@law(15)
def test_a_run_that_is_resumed_after_any_update_has_the_same_tail(at: int, warmup: int, split: tuple[int, int]) -> None:
    path = Path(f"{at}-{warmup}-{split}.ckpt")
    path.unlink(missing_ok=True)
    fit(Classifier(), [LRSchedule(warmup=warmup), Rates(at, path)], n=2 * split[0], batch=2, max_epochs=split[1])
    tail = Rates()
    t = trainer([LRSchedule(warmup=warmup), tail], max_epochs=split[1])
    t.fit(Classifier(), loader(2 * split[0], 2), ckpt_path=path, **STRICT)
    assert tail.seen == pytest.approx([formula(k, warmup, 12) for k in range(at, 12)], rel=1e-6, abs=1e-9)


@given(st.sets(st.integers(0, 19), max_size=8), st.integers(0, 5), st.booleans(), st.booleans())
@law(20)
def test_steps_that_a_grad_scaler_skips_are_not_counted(
    overflows: set[int], warmup: int, fused: bool, manual: bool
) -> None:
    """The rate of each attempt is the curve at the number of updates before it, whatever was skipped."""
    module = Classifier(
        lambda p: sgd(p, fused=fused),
        manual=manual,
        spoil=lambda i, loss: loss * float("inf") if i in overflows else loss,
    )
    used: list[float] = []

    class Attempts(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            used.append(float(optimizer.param_groups[0]["lr"]))

    fit(module, [LRSchedule(warmup=warmup, total=30), Attempts()], n=40, batch=2, precision="16-mixed")
    applied = [sum(j not in overflows for j in range(i)) for i in range(20)]
    assert used == pytest.approx([formula(k, warmup, 30) for k in applied], rel=1e-6)


@given(st.lists(st.floats(0.1, 2.0), min_size=1, max_size=8), st.integers(0, 2), st.booleans())
@law(12)
def test_a_plateau_hears_every_epoch_once_as_torchs_does(losses: list[float], patience: int, early: bool) -> None:
    class Logs(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if early:
                self.log("loss", losses[self.current_epoch], on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def on_train_epoch_end(self) -> None:
            if not early:  # after the callbacks' own hook
                self.log("loss", losses[self.current_epoch])

    schedule = LRSchedule(Plateau("loss", factor=0.5, patience=patience), warmup=0)
    t = fit(Logs(), [schedule], n=8, batch=8, max_epochs=len(losses))
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd([torch.zeros(1)]), factor=0.5, patience=patience)
    for value in losses:
        oracle.step(torch.tensor(value).float())
    assert t.optimizers[0].param_groups[0]["lr"] == pytest.approx(oracle.optimizer.param_groups[0]["lr"])
