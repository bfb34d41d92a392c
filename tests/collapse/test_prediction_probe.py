from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_tricks.collapse.prediction_probe import PredictionProbe
from lightning_tricks.detection.judge import Judge

RUN: Any = SimpleNamespace(
    trainer=SimpleNamespace(
        world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda own, **_: own)
    )
)


def gathered(probe: PredictionProbe, batches: list[tuple[Tensor, Tensor]], *, first: bool = True) -> None:
    for i, (logits, target) in enumerate(batches):
        probe.gather(RUN, (logits, target), {"logits": logits, "target": target}, first=first and i == 0)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(32, 4), torch.randint(4, (32,))) for _ in range(count)]


def test_rows_are_those_of_all_batches_with_the_numbers_of_their_parts() -> None:
    probe, given = PredictionProbe("logits", "target", 3), batches(3)
    gathered(probe, given)
    assert torch.equal(probe.sums["logits"], torch.cat([logits for logits, _ in given]))
    assert torch.equal(probe.sums["target"], torch.cat([target for _, target in given]))
    assert probe.sums["part"].tolist() == [0] * 32 + [1] * 32 + [2] * 32


def test_a_resumed_probe_goes_on_as_the_first_one() -> None:
    whole, first, second, given = *(PredictionProbe("logits", "target", 3) for _ in range(3)), batches(4)
    gathered(whole, given)
    gathered(first, given[:2])
    second.sums = {name: t.clone() for name, t in first.sums.items()}
    second.load(RUN, first.state())
    gathered(second, given[2:], first=False)
    assert whole.sums.keys() == second.sums.keys()
    assert all(torch.equal(t, second.sums[name]) for name, t in whole.sums.items())
    one, two = whole.state(), second.state()
    assert torch.equal(one["start"], two["start"]) and torch.equal(one["prints"], two["prints"])


def test_a_label_of_a_checkpoint_that_is_no_class_is_refused() -> None:
    probe = PredictionProbe("logits", "target", 3)
    probe.sums = {"logits": torch.zeros(2, 3), "target": torch.tensor([0, 3])}
    with pytest.raises(ValueError, match="a label in the checkpoint is none of the classes"):
        probe.load(RUN, {})


def test_it_is_not_yet_time_while_there_is_no_association_and_grace_is_left() -> None:
    probe, given = PredictionProbe("logits", "target", 3), batches(40)
    judge = Judge("PredictionCollapse", probe.rules(), probe.grace_factor)
    gathered(probe, given, first=False)
    vector = probe.measure(RUN).tolist()
    judge.grace = 10.0
    for progress, waits in ((29.0, 1.0), (30.0, 0.0)):
        judge.progress = progress  # the grace of this alarm is three times as long
        values = probe.read(list(vector), judge)
        assert values["association"] < 2 and values["not_yet"] == waits
    probe.rolled_back()
    assert probe.state()["evidence"]["samples"] == 0.0


def test_of_several_calls_of_the_module_the_first_that_fits_the_target_counts() -> None:
    probe, target = PredictionProbe("net", "target", 3), torch.randint(4, (32,))
    first, second = torch.randn(32, 4), torch.randn(32, 4)
    for call in (torch.randn(7, 4), first, second):  # seven unlabelled rows, then two views
        probe._see(call)
    probe.gather(RUN, (torch.randn(32, 2), target), torch.tensor(0.0), first=True)
    assert torch.equal(probe.sums["logits"], first)


def test_an_update_of_many_micro_batches_gives_no_more_rows_than_a_check_can_use() -> None:
    probe = PredictionProbe("logits", "target", 3)
    gathered(probe, batches(40), first=False)
    assert len(probe.sums["part"]) == len(probe.sums["logits"]) == len(probe.sums["target"]) == 2 * probe.samples
    assert probe.sums["part"].diff().min() >= 0, "parts are still those of their batches"
    values = probe.read(probe.measure(RUN).tolist(), Judge("PredictionCollapse", probe.rules(), probe.grace_factor))
    assert values["_count"] == 2 * probe.samples


class CausalSelfAttention(nn.Module):
    """Of a user's own."""


@pytest.mark.parametrize(
    ("module", "factor"),
    [
        (nn.GRU(2, 2), 4.0),
        (nn.LSTMCell(2, 2), 4.0),
        (nn.TransformerEncoderLayer(4, 1), 4.0),
        (CausalSelfAttention(), 4.0),
        (nn.Linear(2, 2), 2.0),
        (nn.Conv1d(2, 2, 1), 2.0),
    ],
)
def test_networks_for_sequences_get_twice_the_time_to_leave_a_plateau(module: nn.Module, factor: float) -> None:
    probe = PredictionProbe("logits", "target", 3)
    to: Any = SimpleNamespace(sampler=None, root=nn.ModuleDict({"inner": module, "logits": nn.Identity()}))
    to.module, to.watch = lambda name, argument: to.root[name], lambda module, function: None
    probe.attach(to)
    assert probe.grace_factor("skill") == factor and probe.grace_factor("lost") == 0.5


@pytest.mark.parametrize(
    ("lengths", "lost"),
    [
        ([4] * 6 + [8] * 6, False),
        ([4] * 6 + [6] * 3 + [9] * 3, False),
        ([4] * 12, True),
        ([8] * 6 + [4] * 6, True),
        ([4, 7, 8, 4, 5, 8] * 2, True),
    ],
    ids=["longer", "longer in stages", "as long", "shorter", "padded to the longest"],
)
def test_a_skill_that_falls_as_samples_grow_is_not_lost(lengths: list[int], lost: bool) -> None:
    probe = PredictionProbe("logits", "target", 3)
    judge = Judge("PredictionCollapse", probe.rules(), probe.grace_factor)
    generator = torch.Generator().manual_seed(0)
    for i, length in enumerate(lengths):
        target = torch.randint(4, (128,), generator=generator)
        told = torch.where(torch.rand(128, generator=generator) < (0.95 if i < 6 else 0.3), target, (target + 1) % 4)
        output = {"logits": 6 * nn.functional.one_hot(told, 4).float(), "target": target}
        probe.gather(RUN, (torch.randn(128, length, generator=generator), target), output, first=i == 0)
        values = probe.read(probe.measure(RUN).tolist(), judge)
        judge.step, probe.sums = i, {}
        judge.follow({"lost": probe.statistics(values, judge)["lost"]})
    assert judge.states["lost"]["alarmed"] == lost
