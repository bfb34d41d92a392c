"""A look at one batch in mid-training: what the module does in it has not happened."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_tricks import TrickWarning
from lightning_tricks.dry_run.isolated import isolated, step_again
from lightning_tricks.errors import NotRestorableError
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from tests.problems import Classifier, Memory, loader, trainer

assert rank_zero_only is not None


class Look(Trick):
    """Calls a function of (run, batch) in the first batch."""

    def __init__(self, look: Any) -> None:
        self.look, self.found, self.done = look, None, False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if not self.done:
            self.done = True
            self.found = self.look(self.run, batch)


def looking(look: Any, module: Any, **arguments: Any) -> Any:
    trick = Look(look)
    trainer([trick], **arguments).fit(module, loader(16))
    return trick.found


class Busy(Classifier):
    """Writes to its batch, logs in every way, and draws."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch[0].mul_(0.5)
        self.log("loss", 1.0)
        self.log_dict({"a": 2.0})
        if self.logger is not None:
            self.logger.log_metrics({"direct": float(torch.rand(()))}, step=0)
        return super().training_step(batch, batch_idx)


def test_the_batch_the_logs_and_the_random_numbers_are_untouched() -> None:
    memory, plain = Memory(), Memory()
    module, other = Busy(), Busy()
    L.seed_everything(3, verbose=False)
    before: list[Any] = []

    def look(run: TrainingRun, batch: Any) -> Any:
        before.append(batch[0].clone())
        losses = [float(step_again(run, batch, 0)) for _ in range(2)]
        assert torch.equal(batch[0], before[0])
        return losses

    losses = looking(look, module, logger=memory)
    L.seed_everything(3, verbose=False)
    trainer(logger=plain).fit(other, loader(16))
    assert losses[0] == losses[1]
    assert memory.rows == plain.rows
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["batch_idx", "i", "_", "nb_batch", "batch_index"])
def test_the_second_argument_is_passed_by_position(name: str) -> None:
    scope: dict[str, Any] = {"Classifier": Classifier}
    exec(
        f"class Named(Classifier):\n    def training_step(self, batch, {name}):\n"
        f"        return super().training_step(batch, 0) * (1 + {name})",
        scope,
    )
    first, second = looking(lambda run, batch: [float(step_again(run, batch, i)) for i in (0, 1)], scope["Named"]())
    assert second == 2 * first


def test_a_step_without_second_argument() -> None:
    class Short(Classifier):
        def training_step(self, batch: Any) -> Any:  # type: ignore[override]
            return super().training_step(batch, 0)

    assert looking(lambda run, batch: float(step_again(run, batch, 5)), Short()) > 0


def test_what_it_returns_is_a_copy() -> None:
    class Returns(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.net[0].weight.data.fill_(7.0)
            return {"loss": super().training_step(batch, batch_idx), "weight": self.net[0].weight}

    def look(run: TrainingRun, batch: Any) -> Any:
        return step_again(run, batch, 0)["weight"]

    assert torch.equal(looking(look, Returns()), torch.full((24, 64), 7.0))


def test_evaluating_is_in_eval_mode_and_only_there() -> None:
    modes: dict[str, bool] = {}

    class Modes(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "training": self.net.training}

    def look(run: TrainingRun, batch: Any) -> Any:
        modes["first"] = step_again(run, batch, 0, evaluate=True)["training"]
        modes["second"] = step_again(run, batch, 0)["training"]

    looking(look, Modes())
    assert modes == {"first": False, "second": True}


def test_an_obstacle_is_remembered_for_the_run() -> None:
    def look(run: TrainingRun, batch: Any) -> Any:
        said = []
        for _ in range(2):
            with pytest.raises(NotRestorableError) as raised, isolated(run):
                raise AssertionError("nothing runs")
            said.append(raised.value.what)
        return said

    module = Classifier()
    module.source = iter([1])  # type: ignore[assignment]
    assert looking(look, module) == ["module.source is an iterator in progress"] * 2


def test_damage_is_said_once_and_ends_dry_runs() -> None:
    class Sneaky(Classifier):
        """Writes to a large tensor past torch's dispatcher."""

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.zeros(600, 600), requires_grad=False)
            self.__dict__["view"] = None

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.table.detach().numpy()[0, 0] += 1
            return super().training_step(batch, batch_idx)

    def look(run: TrainingRun, batch: Any) -> Any:
        with pytest.warns(TrickWarning, match=r"a dry run of this module changed module\.table, which could not"):
            step_again(run, batch, 0)
        with pytest.raises(NotRestorableError, match=r"module\.table could not be put back"):
            step_again(run, batch, 0)
        return True

    assert looking(look, Sneaky())
