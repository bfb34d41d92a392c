from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_tricks import GradientAccumulation, GradientMonitor, TrickError
from lightning_tricks.runtime.run import TrainingRun
from lightning_tricks.runtime.trial import Trial
from lightning_tricks.runtime.trick import Trick
from tests.gradients.plain import Classifier, digits, loader, trainer, weights


class Try(Trick):
    """Runs a trial before training and keeps what the function in it returns."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def prepare(self, run: TrainingRun) -> None:
        with Trial(run, "Try") as trial:
            self.found = self.function(trial)


def in_trial(function: Any, *others: Any, data: Any = None, **arguments: Any) -> Any:
    trick = Try(function)
    trainer([trick, *others], **arguments).fit(Classifier(), loader(32) if data is None else data)
    return trick.found


@pytest.mark.parametrize(
    ("others", "arguments", "windows"),
    [
        ([], {}, [1, 1]),
        ([], {"accumulate_grad_batches": 2}, [2, 2]),
        ([GradientAccumulation({0: 1, 1: 3})], {}, [1, 3]),
    ],
)
def test_updates_are_those_of_training(others: list[Any], arguments: dict[str, Any], windows: list[int]) -> None:
    def two(trial: Trial) -> torch.Tensor:
        for _ in windows:
            trial.update()
        return weights(trial._module)

    found = in_trial(two, *others, **arguments)
    module = Classifier()
    steps = trainer([*others], max_steps=2, max_epochs=-1, **arguments)
    steps.fit(module, loader(32))
    assert torch.equal(found, weights(module))


def test_data_are_cycled_and_restart_begins_again() -> None:
    def losses(trial: Trial) -> Any:
        first = [trial.update() for _ in range(10)]  # of four batches
        trial.restart()
        return first, [trial.update() for _ in range(10)]

    data = DataLoader(digits(32), 8, shuffle=True, generator=torch.Generator().manual_seed(0))
    first, second = in_trial(losses, data=data)
    assert first == second


def test_the_probe_is_always_the_same() -> None:
    module_training = []

    def probes(trial: Trial) -> Any:
        module_training.append(trial._module.training)
        return [trial.probe() for _ in range(3)]

    found = in_trial(probes)
    assert found[0] == found[1] == found[2]
    assert module_training == [True]


def test_observers_and_other_callbacks_take_no_part() -> None:
    class Count(L.Callback):
        calls = 0

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            self.calls += 1

    count = Count()
    names = in_trial(lambda trial: [type(c).__name__ for c in trial._trainer.callbacks], count, GradientMonitor())
    assert names == []
    assert count.calls == 4, "in training only"


def test_empty_data_are_told() -> None:
    class Nothing(torch.utils.data.Sampler[int]):
        def __iter__(self) -> Any:
            return iter([])

        def __len__(self) -> int:
            return 4

    with pytest.raises(TrickError, match="Try: the training data are empty"):
        in_trial(lambda trial: trial.update(), data=DataLoader(digits(32), 8, sampler=Nothing()))


def test_several_loaders_are_combined_as_in_training() -> None:
    class Two(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)

    trick = Try(lambda trial: trial.update())
    data = {"a": loader(32), "b": DataLoader(digits(64), 8)}
    trainer([trick]).fit(Two(), data)
    assert trick.found > 0
