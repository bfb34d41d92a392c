from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks import TrickError
from lightning_tricks.collapse.usage_probe import UsageProbe, sums_form

RUN: Any = SimpleNamespace(
    trainer=SimpleNamespace(
        world_size=1,
        callback_metrics={"reward": torch.tensor(2.0)},
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
)


def gathered(kind: str, output: Any) -> UsageProbe:
    probe = UsageProbe("chooser", kind, 3)
    probe._see(output)
    probe.gather(RUN, torch.zeros(64, 2), None, first=True)
    return probe


def test_votes_are_counted_as_torch_counts_them() -> None:
    torch.manual_seed(0)
    codes = torch.randint(9, (64, 3))
    probe = gathered("codebook", codes)
    judge: Any = None
    values = probe.read(probe.measure(RUN).tolist(), judge)
    shares = codes.flatten().bincount().double() / codes.numel()
    assert values["top_share"] == pytest.approx(float(shares.max())) and values["entries"] == 9
    assert values["top_entry"] == int(shares.argmax())


def test_the_reward_of_a_policy_is_the_mean_of_what_was_logged() -> None:
    probe = gathered("policy", torch.randn(64, 4))
    judge: Any = None
    assert probe.read(probe.measure(RUN).tolist(), judge)["reward"] == 2.0
    other = UsageProbe("chooser", "policy", 3)
    other.load(RUN, probe.state())
    assert repr(other.state()) == repr(probe.state())


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("a text", "holds neither whole numbers nor rows of two numbers or more"),
        (torch.tensor([2**40]), "is not the number of an entry"),
        (torch.zeros(0, dtype=torch.long), "it was not called in the first training step"),
    ],
)
def test_what_holds_no_assignments_is_refused_by_name(output: Any, text: str) -> None:
    with pytest.raises(TrickError, match=text):
        gathered("codebook", output)


def test_too_many_entries_in_a_checkpoint_are_refused() -> None:
    probe = UsageProbe("chooser", "codebook", 3)
    with pytest.raises(ValueError, match="the number of entries in the checkpoint is too large"):
        probe.load(RUN, {**probe.state(), "entries": 2**30})


@pytest.mark.parametrize(
    ("sums", "fault"),
    [
        ({}, False),
        ({"numbers": torch.zeros(3), "effective": torch.zeros(())}, False),
        ({"numbers": torch.zeros(3), "effective": torch.zeros(()), "reward": torch.zeros(2)}, False),
        ({"numbers": torch.zeros(3)}, True),
        ({"numbers": torch.zeros(3, 1), "effective": torch.zeros(())}, True),
        ([], True),
    ],
)
def test_the_form_of_what_was_gathered_is_checked(sums: Any, fault: bool) -> None:
    assert (sums_form(sums, "sums") is not None) is fault
