from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_tricks import GradientAccumulation, GradientMonitor, LRFinder, SanityCheck, TrickError, TrickWarning
from lightning_tricks.dry_run.dry_run import DryRun
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.optimizer_step.scheduled_rates import multiply_rates
from tests.problems import Classifier, digits, loader, trainer, weights


class Try(Trick):
    """Runs a dry run before training and keeps what the function in it returns."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def _before_start(self, run: TrainingRun) -> None:
        with DryRun(run, "Try") as dry_run:
            self.found = self.function(dry_run)


def in_dry_run(function: Any, *others: Any, data: Any = None, **arguments: Any) -> Any:
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
    def two(dry_run: DryRun) -> torch.Tensor:
        for _ in windows:
            dry_run.update()
        return weights(dry_run._module)

    found = in_dry_run(two, *others, **arguments)
    module = Classifier()
    steps = trainer([*others], max_steps=2, max_epochs=-1, **arguments)
    steps.fit(module, loader(32))
    assert torch.equal(found, weights(module))


def test_data_are_cycled_and_restart_begins_again() -> None:
    def losses(dry_run: DryRun) -> Any:
        first = [dry_run.update() for _ in range(10)]  # of four batches
        dry_run.restart()
        return first, [dry_run.update() for _ in range(10)]

    data = DataLoader(digits(32), 8, shuffle=True, generator=torch.Generator().manual_seed(0))
    first, second = in_dry_run(losses, data=data)
    assert first == second


def test_the_probe_is_always_the_same() -> None:
    module_training = []

    def probes(dry_run: DryRun) -> Any:
        module_training.append(dry_run._module.training)
        return [dry_run.probe() for _ in range(3)]

    found = in_dry_run(probes)
    assert found[0] == found[1] == found[2]
    assert module_training == [True]


class Count(L.Callback):
    """A callback of the user, which sets what ``Needy`` cannot do without."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.calls.append("epoch")
        pl_module.factor = 1.0

    def on_before_backward(self, *_: Any) -> None:
        self.calls.append("backward")


class Needy(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * self.factor  # type: ignore[operator]


@pytest.mark.parametrize("make", [Classifier, Needy])
def test_a_callback_of_the_user_takes_part_where_the_module_needs_it_and_forgets_it(make: Any) -> None:
    def one(dry_run: DryRun) -> Any:
        dry_run.update()
        return [type(c).__name__ for c in dry_run._trainer.callbacks], list(count.calls)

    count, trick = Count(), Try(one)
    trainer([trick, count, GradientMonitor(), L.callbacks.ModelSummary()]).fit(make(), loader(32))
    assert trick.found == (([], []) if make is Classifier else (["Count"], ["epoch", "backward"]))
    assert count.calls == ["epoch", *["backward"] * 4], "in training only"


def test_a_callback_that_cannot_be_put_back_is_left_out() -> None:
    class Writes(L.Callback):
        def __init__(self, path: Any) -> None:
            self.file = open(path, "w")  # noqa: SIM115

        def on_before_backward(self, *_: Any) -> None:
            self.file.write("x")

    writes, trick = Writes("log.txt"), Try(lambda d: (d.update(), [type(c).__name__ for c in d._trainer.callbacks])[1])
    trainer([trick, writes, Count()]).fit(Needy(), loader(32))
    writes.file.close()
    assert trick.found == ["Count"]
    with open("log.txt") as file:
        assert file.read() == "x" * 4


HOOKS = ("on_train_start", "on_train_epoch_start", "on_train_batch_start")


@pytest.mark.parametrize("of", ["module", "callback"])
@pytest.mark.parametrize("hook", HOOKS)
def test_what_a_hook_makes_is_there_in_the_step(of: str, hook: str) -> None:
    """As Lightning would: a step that needs what a hook made finds it, also when it is asked for a second loss."""

    class Needs(Classifier):
        needed: Any = None  # (a factor of None is an error)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * self.needed

    def make(module: Any) -> None:
        module.needed = 2.0

    class Module(Needs):
        pass

    class Callback(L.Callback):
        pass

    if of == "module":
        setattr(Module, hook, lambda self, *_: make(self))
    else:
        setattr(Callback, hook, lambda self, trainer, pl_module, *_: make(pl_module))
    trick = Try(lambda d: [d.probe(), d.update(), d.restart(), d.update(), d.update()])
    trainer([trick, Callback()]).fit(Module(), loader(32))
    probe, first, _, again, _ = trick.found
    assert first == again and probe is not None


def test_an_overridden_optimizer_step_and_zero_grad_are_used() -> None:
    class Own(Classifier):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer.step(closure=optimizer_closure)
            with torch.no_grad():
                self.net[0].bias.fill_(7.0)

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            optimizer.zero_grad(set_to_none=False)

    def one(dry_run: DryRun) -> Any:
        net = dry_run._module.net
        dry_run.update()
        bias = net[0].bias.detach().clone()
        dry_run.restart()
        return bias, net[0].bias.detach().clone()

    trick = Try(one)
    trainer([trick]).fit(Own(), loader(32))
    after, before = trick.found
    assert torch.equal(after, torch.full((24,), 7.0)) and not torch.equal(before, after)


def test_batches_that_are_written_to_are_the_same_the_next_time() -> None:
    class Scales(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batch[0].mul_(0.5)
            return super().training_step(batch, batch_idx)

    def losses(dry_run: DryRun) -> Any:
        batch = dry_run.data.next_batch()
        looks = [float(dry_run.output(batch).detach()) for _ in range(3)]
        dry_run.data.hold([batch])
        multiply_rates(dry_run.steps.optimizer, [], 0.0)
        return looks, [dry_run.update() for _ in range(3)], [dry_run.probe() for _ in range(3)]

    trick = Try(losses)
    trainer([trick]).fit(Scales(), loader(32))
    for row in trick.found:
        assert row[0] == row[1] == row[2]


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_batches_of_none_are_left_out() -> None:
    class Sometimes(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.rows = list(digits(32))

        def __getitem__(self, index: int) -> Any:
            return self.rows[index]

        def __len__(self) -> int:
            return 32

    data = DataLoader(
        Sometimes(), 8, collate_fn=lambda rows: None if rows[0][1] == 0 else torch.utils.data.default_collate(rows)
    )
    assert next(iter(data)) is None
    assert in_dry_run(lambda d: [d.update() for _ in range(6)], data=data)[-1] > 0
    nothing = DataLoader(Sometimes(), 8, collate_fn=lambda rows: None)
    with pytest.raises(TrickError, match="Try: the training data are empty"):
        in_dry_run(lambda dry_run: dry_run.update(), data=nothing)


def test_empty_data_are_told() -> None:
    class Nothing(torch.utils.data.Sampler[int]):
        def __iter__(self) -> Any:
            return iter([])

        def __len__(self) -> int:
            return 4

    with pytest.raises(TrickError, match="Try: the training data are empty"):
        in_dry_run(lambda dry_run: dry_run.update(), data=DataLoader(digits(32), 8, sampler=Nothing()))


def test_several_loaders_are_combined_as_in_training() -> None:
    class Two(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)

    trick = Try(lambda dry_run: dry_run.update())
    data = {"a": loader(32), "b": DataLoader(digits(64), 8)}
    trainer([trick]).fit(Two(), data)
    assert trick.found > 0


class Counted(torch.utils.data.Dataset[Any]):
    """Notes which items are taken."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def __len__(self) -> int:
        return 80

    def __getitem__(self, i: int) -> Any:
        self.seen.append(i)
        return torch.full((64,), i / 80), i % 10


class EndsBadly(DataLoader[Any]):
    """As scvi's ConcatDataLoader: it can be iterated as often as it has batches, and raises beyond."""

    def __iter__(self) -> Any:
        yield from super().__iter__()
        raise ValueError("zip() argument 2 is shorter than argument 1")


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
@pytest.mark.parametrize("limits", [{"limit_train_batches": 2}, {"limit_train_batches": 0.2}, {"overfit_batches": 2}])
def test_a_dry_run_takes_no_batch_that_training_would_not(limits: dict[str, Any]) -> None:
    def largest(tricks: list[Any]) -> int:
        seen: list[int] = []
        trainer(tricks, max_epochs=2, **limits).fit(Classifier(), DataLoader(Counted(seen), batch_size=8))
        return max(seen)

    assert largest([LRFinder(num_steps=20, apply=False)]) == largest([SanityCheck()]) == largest([]) == 15


def test_a_loader_that_fails_behind_its_last_batch_is_not_asked_for_more() -> None:
    found = LRFinder(num_steps=20, apply=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="LRFinder: the learning rate stays", category=TrickWarning)
        warnings.filterwarnings("ignore", message=".*treespec")
        trainer([found]).fit(Classifier(), EndsBadly(digits(64), batch_size=8))
    assert found.result is not None and len(found.result.lrs) > 8
