from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lightning_tricks import TrainingDoctor
from lightning_tricks.diagnosis.still_copies import copies
from tests.problems import Classifier, digits, trainer


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


class Taught(Classifier):
    """A network beside a copy of it, which follows it as it is told."""

    def __init__(self, follow: Any, copy: Any = deepcopy) -> None:
        super().__init__()
        self.net, self.follow = net(), follow
        self.teacher = copy(self.net)
        self.teacher.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        agreement = F.mse_loss(logits.softmax(1), self.teacher(batch[0]).softmax(1))
        return F.cross_entropy(logits, batch[1]) + 0.1 * agreement

    def on_train_batch_end(self, *given: Any) -> None:
        self.follow(self)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.05)


def averaged(module: Any, momentum: float = 0.9) -> None:
    for slow, fast in zip(module.teacher.parameters(), module.net.parameters(), strict=True):
        slow.data.mul_(momentum).add_(fast.data, alpha=1 - momentum)


def renewed(module: Any) -> None:
    if module.global_step % 12 == 0:
        module.teacher.load_state_dict(module.net.state_dict())


def nothing(module: Any) -> None:
    pass


def trained_before(source: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in source.parameters():
            p.mul_(1.5)
    return deepcopy(source)


def doctor(module: Any, **given: Any) -> TrainingDoctor:
    found = TrainingDoctor(every_n_steps=2, action="log")
    trainer([found], **{"max_epochs": 2, **given}).fit(module, DataLoader(digits(1792), batch_size=128))
    return found


@pytest.mark.parametrize(
    ("module", "alarmed"),
    [
        (Taught(nothing), True),
        (Taught(lambda m: averaged(m, 1.0)), True),
        (Taught(averaged), False),
        (Taught(renewed), False),
        (Taught(nothing, trained_before), False),
        (Taught(nothing, lambda source: net()), False),
        (Taught(nothing, lambda source: AveragedModel(source)), True),
        (
            Taught(
                lambda m: m.teacher.update_parameters(m.net),
                lambda source: AveragedModel(source, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
            ),
            False,
        ),
    ],
    ids=[
        *("never updated", "a momentum of 1", "an average", "renewed now and then", "a copy of a trained one"),
        *("another network", "AveragedModel, forgotten", "AveragedModel"),
    ],
)
def test_a_copy_of_an_untrained_network_that_never_follows_it_is_noticed(module: Any, alarmed: bool) -> None:
    found = doctor(module)
    still = [v for v in found.alarms if v.cause == "weights do not change"]
    assert bool(still) == alarmed
    if alarmed:
        assert "a copy of net, holds the random weights that it began with" in still[0].reasons[0]
        assert 16 <= still[0].step <= 19  # of 28


def test_the_outermost_copies_are_found_and_nothing_that_an_optimizer_holds() -> None:
    root = nn.ModuleDict({"student": net(), "one": nn.ModuleDict({"inner": net()}), "other": net()})
    root["one"]["inner"].load_state_dict(root["student"].state_dict())  # type: ignore[index]
    held = {id(p) for p in root["student"].parameters()}
    assert [(c.name, c.original) for c in copies(root, held)] == [("one.inner", "student")]
    assert copies(root, held | {id(p) for p in root["one"].parameters()}) == []
    assert copies(root, set()) == []


@pytest.mark.parametrize(
    ("name", "found"), [("teacher", 1), ("target_net", 1), ("refined", 1), ("reference", 0), ("ref", 0), ("old", 0)]
)
def test_a_copy_whose_name_says_that_it_stays_may_stay(name: str, found: int) -> None:
    student = net()
    root = nn.ModuleDict({"student": student, name: deepcopy(student)})
    assert len(copies(root, {id(p) for p in student.parameters()})) == found


def test_a_layer_that_is_shared_is_no_copy() -> None:
    student = net()
    root = nn.ModuleDict({"student": student, "same": student})
    assert copies(root, {id(p) for p in student.parameters()}) == []


def test_a_run_that_goes_on_is_not_asked_and_holds_nothing_afterwards(tmp_path: Any) -> None:
    module, found = Taught(nothing), TrainingDoctor(every_n_steps=2, action="log")
    runner = trainer([found], max_epochs=1)
    runner.fit(module, DataLoader(digits(1792), batch_size=128))
    assert found.verdict.cause == "weights do not change"
    runner.save_checkpoint(tmp_path / "run.ckpt")
    again = Taught(nothing)
    other = TrainingDoctor(every_n_steps=2, action="log")
    trainer([other], max_epochs=3).fit(again, DataLoader(digits(1792), batch_size=128), ckpt_path=tmp_path / "run.ckpt")
    assert len(other.alarms) == 1  # that of the checkpoint
