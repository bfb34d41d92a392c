"""What trainings that nobody here made have shown: each is a kind, and the right value is asked for.

That nothing is changed in them is in ``test_no_trace.py``; here that the callbacks still do what they are for, and say
by name what they cannot do.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import (
    GenerationDrift,
    LRFinder,
    PrecisionDoctor,
    SanityCheck,
    TrainingDoctor,
    TrickError,
    TrickWarning,
)
from tests.kinds import KINDS, OwnLoader, Plain, recurrent
from tests.problems import Classifier, digits, loader, trainer, weights

quiet = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")


def fit(module: Any, *callbacks: Any, data: Any = None, **arguments: Any) -> Any:
    t = trainer(list(callbacks), **{"max_epochs": 1, **arguments})
    torch.manual_seed(3)
    t.fit(module, loader(64) if data is None else data)
    return t


# -- a recurrent network learns ---------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize(
    "make", [SanityCheck, lambda: LRFinder(apply=False), TrainingDoctor], ids=["check", "finder", "doctor"]
)
def test_a_gru_learns_beside_it(make: Any) -> None:
    """Cut from its parameters it would stay at 0.58; it gets below 0.05 with and without."""

    class Sums(Plain):
        def network(self) -> nn.Module:
            self.rnn = nn.GRU(3, 16, batch_first=True)
            return nn.Linear(16, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = (self.net(self.rnn(batch[0])[0][:, -1]) - batch[1]).square().mean()
            self.last = float(loss.detach())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 0.02)

    torch.manual_seed(0)
    x = torch.randn(128, 4, 3) / 3
    module = Sums()
    fit(module, make(), data=DataLoader(TensorDataset(x, x.sum((1, 2))[:, None]), 16), max_epochs=40)
    assert module.last < 0.05


@quiet
def test_sanity_check_does_not_report_its_own_damage() -> None:
    check = SanityCheck()
    fit(recurrent(nn.LSTM)(), check, data=DataLoader(digits(640), 32))
    (learn,) = [c for c in check.checks if c.name == "all parameters learn"]
    assert learn.passed, learn


# -- arguments by position --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a second argument of another name", "a step without second argument"])
def test_the_first_batch_is_followed_whatever_the_arguments_are_called(kind: str) -> None:
    doctor = TrainingDoctor(every_n_steps=2)
    fit(KINDS[kind].make(), doctor)
    assert all(math.isfinite(values["fixed_batch_loss"]) for _, values in doctor.history)


def test_the_culprit_is_named_whatever_the_arguments_are_called() -> None:
    class Overflows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (0 if self.on else 1)

        on = False

    class Named(Plain):
        def network(self) -> nn.Module:
            return nn.Sequential(nn.Linear(64, 10), Overflows())

        def training_step(self, batch: Any, nb: int) -> Any:
            self.net[1].on = nb == 5  # type: ignore[index]
            return super().training_step(batch, nb)

    doctor = TrainingDoctor(every_n_steps=2)
    with pytest.warns(TrickWarning, match=r"the output of 'net\.1' is the first that is not finite"):
        fit(Named(), doctor)


@quiet
def test_drift_is_followed_whatever_the_arguments_are_called() -> None:
    drift = GenerationDrift(num_samples=32)
    fit(KINDS["a second argument of another name"].make(), drift, max_epochs=2)
    assert [set(values) >= {"real_loss", "diversity"} for _, values in drift.history] == [True, True]


# -- the reference batch: only where it is proven to leave no trace -----------------------------------------------------


class Elsewhere(Classifier):
    """Its loss depends on a state that no snapshot reaches."""

    def __init__(self) -> None:
        super().__init__()
        import threading

        self.world = threading.local()
        self.world.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.world.steps += 1
        return super().training_step(batch, batch_idx) * (1 + 0.01 * self.world.steps)


@pytest.mark.parametrize("asked", [False, True])
def test_a_loss_that_is_not_reproduced_is_not_followed_unless_asked_for(asked: bool) -> None:
    doctor, module = TrainingDoctor(every_n_steps=2, reference_batch=asked), Elsewhere()
    fit(module, doctor)
    assert {"fixed_batch_loss" in values for _, values in doctor.history} == {asked}
    assert module.world.steps == (8 + 1 + 4 if asked else 8 + 1), "one try, and a look at each check if asked for"


@pytest.mark.parametrize("asked", [False, True])
def test_what_cannot_be_put_back_is_said_once(asked: bool, caplog: Any) -> None:
    class Streams(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.source = iter(range(10**6))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * (1 + 1e-3 * next(self.source))

    doctor, module, alone = TrainingDoctor(every_n_steps=2, reference_batch=asked), Streams(), Streams()
    text = r"the loss on the first batch is not followed: module\.source is an iterator in progress"
    with caplog.at_level(logging.INFO):
        if asked:
            with pytest.warns(TrickWarning, match=text) as said:
                fit(module, doctor)
            assert len([w for w in said if issubclass(w.category, TrickWarning)]) == 1
        else:
            fit(module, doctor)
            assert len([r for r in caplog.records if "module.source is an iterator in progress" in r.message]) == 1
    fit(alone)
    assert torch.equal(weights(module), weights(alone))
    assert len(doctor.history) == 4 and not any("fixed_batch_loss" in values for _, values in doctor.history)


def test_a_step_without_loss_at_first_gives_a_reference_batch_later() -> None:
    doctor = TrainingDoctor(every_n_steps=2)
    fit(KINDS["a step that returns None now and then"].make(), doctor)
    assert any("fixed_batch_loss" in values for _, values in doctor.history)


# -- obstacles: named, and training goes on -----------------------------------------------------------------------------


class Acts(Classifier):
    """Holds an environment of another language."""

    def __init__(self) -> None:
        super().__init__()
        import _sqlite3

        self.environment = _sqlite3.connect(":memory:")


@pytest.fixture
def acting() -> Any:
    module = Acts()
    yield module
    module.environment.close()


SAID = r"module\.environment is a sqlite3\.Connection, whose state is kept outside of Python"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (LRFinder, r"LRFinder: not run, and the learning rate stays 0\.05: "),
        (SanityCheck, "SanityCheck: not run: "),
        (lambda: GenerationDrift(num_samples=32), "GenerationDrift: "),
        (lambda: TrainingDoctor(reference_batch=True), "TrainingDoctor: the loss on the first batch is not followed: "),
    ],
)
def test_an_obstacle_is_named_and_training_goes_on(make: Any, text: str, acting: Any) -> None:
    alone = Classifier()
    with pytest.warns(TrickWarning, match=text + SAID) as said:
        fit(acting, make())
    fit(alone)
    assert len([w for w in said if issubclass(w.category, TrickWarning)]) == 1
    assert torch.equal(weights(acting), weights(alone))


def test_a_finder_that_must_be_certain_ends_the_run(acting: Any) -> None:
    with pytest.raises(TrickError, match="no learning rate can be recommended: " + SAID):
        fit(acting, LRFinder(on_low_confidence="raise"))


def test_a_skipped_update_that_cannot_be_looked_at_again_is_said_once(acting: Any) -> None:
    acting.spoil = lambda i, loss: loss * math.inf if i in (3, 5) else loss
    with pytest.warns(
        TrickWarning, match="a skipped update's forward pass cannot be looked at again .*" + SAID
    ) as said:
        fit(acting, PrecisionDoctor(), precision="16-mixed")
    assert len([w for w in said if "looked at again" in str(w.message)]) == 1


# -- the model raises on an experiment ------------------------------------------------------------------------------------


class Lengths(Plain):
    """Sequences with their lengths in the batch: a length of 0 is an error of torch's own."""

    def network(self) -> nn.Module:
        self.rnn = nn.GRU(8, 16, batch_first=True)
        return nn.Linear(16, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, lengths, y = batch
        packed = pack_padded_sequence(x.reshape(-1, 8, 8), lengths, batch_first=True, enforce_sorted=False)
        return nn.functional.cross_entropy(self.net(self.rnn(packed)[1][0]), y)


class Windows(Plain):
    """Counts the rows of a window that are not masked, and needs one."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, mask, y = batch
        if not bool(mask.any()):
            raise ValueError("a window without a single row\nthat counts")
        return nn.functional.cross_entropy(self.net(x)[mask], y[mask])


@pytest.mark.parametrize("on_failure", ["warn", "raise"])
@pytest.mark.parametrize(("make", "kind"), [(Lengths, torch.int64), (Windows, torch.bool)])
@quiet
def test_a_model_that_raises_on_an_experiment_is_not_the_end(make: Any, kind: Any, on_failure: Any) -> None:
    images, labels = digits(256).tensors
    data = DataLoader(TensorDataset(images, torch.full((256,), 8).to(kind), labels), 32)
    check, module, alone = SanityCheck(on_failure=on_failure), make(), make()
    fit(module, check, data=data)
    fit(alone, data=data)
    unknown = {c.name: c.evidence for c in check.checks if c.passed is None}
    assert "the model cannot be asked (" in unknown["inputs matter"] and "\n" not in unknown["inputs matter"]
    assert "all parameters learn" in {c.name for c in check.checks if c.passed}
    assert torch.equal(weights(module), weights(alone))


def test_a_step_that_fails_in_the_dry_run_alone_is_told_with_the_callbacks_name() -> None:
    class Fails(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not self.trainer.fit_loop.epoch_loop.batch_progress.total.started:
                raise KeyError("not yet")
            return super().training_step(batch, batch_idx)

    for make in (SanityCheck, LRFinder):
        with pytest.warns(TrickWarning, match=f"{make.__name__}: not run.*the dry run failed .KeyError: 'not yet'"):
            fit(Fails(), make())


@quiet
def test_a_model_that_refuses_nan_ends_the_sweep_and_not_the_run() -> None:
    """As torch.distributions does. Its loss is bounded, so that nothing else ends the sweep before."""

    class Validates(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            weight = next(self.net.parameters())
            if not bool(weight.isfinite().all()):
                raise ValueError("Expected parameter loc to satisfy the constraint Real()")
            return 1e6 * weight.sin().mean()

    finder = LRFinder(min_lr=1e-3, max_lr=3e38, num_steps=100)
    fit(Validates(), finder)
    assert finder.result is not None and 30 < len(finder.result.lrs) < 100


# -- the user's own loader ------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("make", [lambda: LRFinder(apply=False, num_steps=10), SanityCheck], ids=["finder", "check"])
def test_the_dry_run_takes_batches_of_the_users_own_loader(make: Any) -> None:
    """Plain batches of the same data, without the loader's own ``__iter__``, have another form: the step refuses them."""
    refused = []

    class Wants(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch[0][:, 0].abs().sum() > 0:  # (the first pixel is 1 and the last one 0; the loader flips them)
                refused.append(batch_idx)
            return super().training_step((batch[0], batch[1]), batch_idx)

    images, labels = digits(64).tensors
    images = images.clone()
    images[:, 0], images[:, 63] = 1.0, 0.0
    callback = make()
    fit(Wants(), callback, data=OwnLoader(TensorDataset(images, labels), 8))
    assert not refused
    if isinstance(callback, LRFinder):
        assert callback.result is not None and len(callback.result.lrs) == 10


# -- gradients that differ from step to step --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["two heads that take turns", "a gradient that turns sparse", "a head that changes its type"]
)
def test_norms_are_right_whatever_gradients_are_there(kind: str) -> None:
    import lightning.pytorch as L

    from lightning_tricks import GradientMonitor
    from tests.problems import Memory

    expected: list[float] = []

    class Oracle(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            there = [p.grad.to_dense().double() for p in pl_module.parameters() if p.grad is not None]
            expected.append(float(torch.cat([g.reshape(-1) for g in there]).norm()))

    memory = Memory()
    fit(KINDS[kind].make(), Oracle(), GradientMonitor(), logger=memory)
    assert list(memory.series("grad/norm").values()) == pytest.approx(expected, rel=1e-5)
