"""Every public callback, found by introspection, under every precision, optimizer and mode."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import threading
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning
import torch
from torch import nn

import lightning_tricks
from lightning_tricks import GradientMonitor
from lightning_tricks.detection.detector import Detector
from lightning_tricks.lifecycle.trick import Trick
from tests.accumulation.problems import Hungry
from tests.covering import cells
from tests.matrix import BESIDE, EXAMPLES, MEMORY_RUNS_OUT, OPTIMIZERS, PRECISIONS, REFUSED, REFUSES, UNDER, VARIANTS
from tests.problems import Classifier, Collapsed, Memory, fit, loader, sgd, trainer, weights
from tests.together.problems import CALLBACKS, assert_clean, example

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")


def optimizer(kind: str) -> Any:
    return {
        "foreach": lambda p: sgd(p, foreach=True),
        "fused": lambda p: sgd(p, fused=True),
        "momentum fused": lambda p: sgd(p, momentum=0.9, fused=True),
        "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
        "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
    }[kind]


def test_every_callback_has_its_rows() -> None:
    assert sorted(EXAMPLES) == sorted(VARIANTS) == CALLBACKS
    for name in CALLBACKS:
        assert set(VARIANTS[name]) == set(inspect.signature(getattr(lightning_tricks, name)).parameters), name


# (LBFGS needs a closure, which manual optimization leaves to the user)
@pytest.mark.parametrize(
    ("precision", "kind", "manual"),
    cells(
        PRECISIONS,
        OPTIMIZERS,
        (False, True),
        one_in=2,
        together=2,
        where=lambda _, kind, manual: not (manual and kind == "lbfgs"),
    ),
)
def test_all_together_train_and_leave_nothing_behind(precision: str, kind: str, manual: bool) -> None:
    module = Classifier(optimizer(kind), manual=manual)
    modes = {kind, precision, "manual"} if manual else {kind, precision}
    for name in CALLBACKS:
        for mode in modes & set(REFUSES.get(name, {})):
            with pytest.raises(lightning_tricks.UnsupportedError, match=REFUSES[name][mode]):
                fit(Classifier(optimizer(kind), manual=manual), [example(name)], n=8, precision=precision)
    tricks = [example(name) for name in CALLBACKS if not modes & set(REFUSES.get(name, {}))]
    if (kind, precision) in REFUSED:
        with pytest.raises(Exception, match=REFUSED[kind, precision]):
            fit(module, tricks, n=24, precision=precision)
        return
    t = fit(module, tricks, n=24, precision=precision, max_epochs=2)
    assert_clean(t, module)
    assert weights(module).isfinite().all()
    assert tricks[0].run.clock.applied_on_host(0) == 6


@pytest.mark.parametrize("name", CALLBACKS)
def test_trains_twice_with_the_same_object(name: str) -> None:
    trick = example(name)
    first, second, fresh = Classifier(), Classifier(), Classifier()
    fit(first, [trick], n=32)
    fit(second, [trick], n=32)
    fit(fresh, [example(name)], n=32)
    assert torch.equal(weights(second), weights(fresh)), "another Trainer must start from nothing"
    t = trainer([trick], max_epochs=1)
    t.fit(Classifier(), loader(32))
    t.fit_loop.max_epochs = 2
    t.fit(Classifier(), loader(32))
    assert trick.run.clock.applied_on_host(0) == 8, "the same Trainer goes on"


@pytest.mark.parametrize(
    ("name", "namespace", "single"),
    cells(CALLBACKS, (L, pytorch_lightning), (True, False), one_in=2, together=2),
)
def test_either_trainer_takes_it_alone_and_in_a_list_with_resume(
    name: str, namespace: Any, single: bool, tmp_path: Any
) -> None:
    class Net(namespace.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net, self.echo = nn.Sequential(nn.Linear(64, 10), nn.ReLU()), nn.Identity()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.net(self.echo(batch[0])), batch[1])

        def sample(self, count: int) -> Any:
            return torch.rand(count, 64)

        def configure_optimizers(self) -> Any:
            return sgd(self.parameters())

    def make(epochs: int) -> Any:
        trick = example(name)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        return namespace.Trainer(
            accelerator="cpu", logger=False, max_epochs=epochs, callbacks=trick if single else [trick], **quiet
        )

    whole = Net()
    make(3).fit(whole, loader(16))
    first = make(1)
    first.fit(Net(), loader(16))
    first.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    resumed, t = Net(), make(3)
    t.fit(resumed, loader(16), ckpt_path=tmp_path / "a.ckpt")
    trick = next(c for c in t.callbacks if isinstance(c, Trick))
    assert trick.run.clock.state_dict() == {"version": 1, "attempted": [6], "applied": [6]}
    if name != "LRSchedule":  # its length depends on max_epochs, which the first part did not know
        torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


class Boom(L.Callback):
    def __init__(self, hook: str, error: type[BaseException]) -> None:
        setattr(self, hook, self._raise)
        self.error = error

    def _raise(self, *args: Any, **kwargs: Any) -> None:
        raise self.error("boom")


HOOKS = ("setup", "on_fit_start", "on_train_start", "on_train_batch_start", "on_before_backward", "on_after_backward",
         "on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end", "on_train_end")  # fmt: skip


# (for each callback by itself: fault 9 of tests/faults)
@pytest.mark.parametrize(("hook", "first"), cells(HOOKS, (True, False), one_in=2))
def test_an_exception_elsewhere_leaves_nothing_behind(hook: str, first: bool) -> None:
    tricks = [example(name) for name in CALLBACKS]
    boom = Boom(hook, ValueError)
    module = Classifier(optimizer("adamw fused"))
    t = trainer([boom, *tricks] if first else [*tricks, boom])
    with pytest.raises(ValueError, match="boom"):
        t.fit(module, loader(32))
    assert_clean(t, module)
    fit(Classifier(), tricks, n=16)


def test_an_interrupt_leaves_nothing_behind() -> None:
    tricks = [example(name) for name in CALLBACKS]
    module = Classifier(optimizer("adamw fused"))
    t = trainer([*tricks, Boom("on_train_batch_end", KeyboardInterrupt)])
    with pytest.raises(SystemExit):
        t.fit(module, loader(32))
    assert_clean(t, module)


@pytest.mark.parametrize("name", CALLBACKS)
def test_pickles_and_copies_without_the_module(name: str) -> None:
    trick = example(name)
    fit(Classifier(), [trick], n=16)
    data = pickle.dumps(trick)
    assert len(data) < 2_000
    for twin in (pickle.loads(data), copy.deepcopy(trick)):
        fit(Classifier(), [twin], n=16)


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize(
    "arguments",
    [{"fast_dev_run": True}, {"limit_train_batches": 0}, {"accumulate_grad_batches": 3}, {"log_every_n_steps": 0},
     {"logger": False}],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*")
def test_runs_under_the_trainers_options(name: str, arguments: dict[str, Any]) -> None:
    if name == "GradientAccumulation" and "accumulate_grad_batches" in arguments:
        with pytest.raises(lightning_tricks.ConflictError):
            fit(Classifier(), [example(name)], n=32, **arguments)
        return
    fit(Classifier(), [example(name)], n=32, **arguments)


class Validated(Classifier):
    def forward(self, batch: Any) -> Any:
        return self.net(batch[0])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(self.echo(batch[0])), batch[1]))


@pytest.mark.parametrize(("name", "inference_mode"), cells(CALLBACKS, (True, False), one_in=2))
@pytest.mark.filterwarnings("ignore:.*")
def test_a_validation_before_between_and_after_fits_changes_nothing(name: str, inference_mode: bool) -> None:
    def trained(validates: bool) -> torch.Tensor:
        module, trick = Validated(), example(name)
        t = trainer([trick], inference_mode=inference_mode, limit_val_batches=1)
        for epochs in (1, 2):
            if validates:
                t.validate(module, loader(16), verbose=False)
            t.fit_loop.max_epochs = epochs
            t.fit(module, loader(32), loader(16) if validates else None)
        if validates:
            t.validate(module, loader(16), verbose=False)
            t.predict(module, loader(16))
        assert trick.run.clock.applied_on_host(0) == 8
        return weights(module)

    assert torch.equal(trained(True), trained(False))


@pytest.mark.parametrize("name", CALLBACKS)
def test_the_defaults_of_the_signature_are_what_it_has(name: str) -> None:
    cls, given = getattr(lightning_tricks, name), EXAMPLES[name]
    parameters = inspect.signature(cls).parameters
    defaults = {n: p.default for n, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert repr(cls(**{**defaults, **given}).arguments()) == repr(cls(**given).arguments())
    for argument in parameters:
        assert re.search(rf"^ +{argument}: ", inspect.cleandoc(cls.__doc__), re.M), f"{argument} is not documented"


def drifting() -> Any:
    """Return what makes each loss a little larger, where no snapshot sees it."""
    hidden = threading.local()
    hidden.factor = 1.0

    def spoil(i: int, loss: Any) -> Any:
        hidden.factor *= 1.001
        return loss * hidden.factor

    return spoil


def remembering() -> Any:
    """Return what keeps every loss with its graph."""
    kept: list[Any] = []

    def spoil(i: int, loss: Any) -> Any:
        kept.append(loss)
        return loss

    return spoil


def outcome(name: str, changed: dict[str, Any], hungry: bool) -> Any:
    """What can be observed of a run: weights and what was logged."""

    class Drawing(Memory):
        @property
        def experiment(self) -> Any:
            memory = self

            class Experiment:
                def add_histogram(self, key: str, values: Any, step: int) -> None:
                    memory.rows.append((step, {key: float(values.sum())}))

            return Experiment()

    def optimizer_with_scheduler(p: Any) -> Any:
        o = sgd(p)
        return {"optimizer": o, "lr_scheduler": torch.optim.lr_scheduler.ConstantLR(o, 0.5)}

    logger = Drawing()
    spoil = (lambda i, loss: loss * float("nan") if i == 3 else loss) if "nonfinite" in changed else None
    if name == "LossScaleGuard":  # four updates in a row that cannot be made
        spoil = lambda i, loss: loss * float("nan") if 2 <= i < 10 else loss  # noqa: E731
    make = optimizer_with_scheduler if "conflict" in changed else sgd
    threshold = 0.1 if "conflict" in changed and name == "GradientClip" else None  # the Trainer's own
    module = Hungry(5, make_optimizer=make) if hungry else Classifier(make, spoil=spoil)
    detects = issubclass(getattr(lightning_tricks, name), Detector) or name == "SanityCheck"
    if detects:
        module = Collapsed()
        module.other_sample = lambda count: torch.ones(count, 64)
    if "reference_batch" in changed:  # no step can be run twice with the same loss
        module.spoil = drifting()
    if name == "MemoryDoctor":
        module.spoil = remembering()
    window, trick = 1 if name == "GradientAccumulation" else 2, example(name, **changed)

    class Saves(L.Callback):
        """Makes a checkpoint in the middle of a window."""

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                trainer._checkpoint_connector.dump_checkpoint(False)

    beside: list[Any] = [GradientMonitor()] if name == "ProgressMetrics" else []  # it shows what others measure
    beside += [Saves()] if name == "ExactResume" else []
    try:
        precision = UNDER.get(name, "32-true")
        epochs = 5 if name == "GenerationDrift" else 1
        t = fit(
            module,
            [trick, *beside],
            n=1500 if detects else 92,
            batch=125 if detects else 8,
            logger=logger,
            accumulate_grad_batches=window,
            gradient_clip_val=threshold,
            precision=precision,
            max_epochs=epochs,
        )
    except (lightning_tricks.TrickError, torch.OutOfMemoryError) as error:
        return type(error).__name__
    found = getattr(trick, "checks", None)
    saved = trick.saved_gradients if name == "ExactResume" else None
    seen = weights(module).tolist(), logger.rows, sorted(t.progress_bar_metrics), found, saved
    return *seen, getattr(module, "tries", 0), getattr(trick, "result", None)


OUTCOMES: dict[tuple[Any, ...], str] = {}  # of runs that several arguments are compared with


def outcome_to_compare_with(name: str, base: dict[str, Any], hungry: bool) -> str:
    key = (name, repr(base), hungry)
    if key not in OUTCOMES:
        OUTCOMES[key] = repr(outcome(name, base, hungry))
    return OUTCOMES[key]


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in CALLBACKS for a in VARIANTS[n]])
def test_every_argument_changes_something_observable(name: str, argument: str) -> None:
    base, hungry = BESIDE.get((name, argument), {}), (name, argument) in MEMORY_RUNS_OUT
    changed = {**base, argument: VARIANTS[name][argument]}
    torch.manual_seed(0)
    without = outcome_to_compare_with(name, base, hungry)
    torch.manual_seed(0)
    assert repr(outcome(name, changed, hungry)) != without


@pytest.mark.parametrize(("name", "base"), [("GradientMonitor", {}), ("LRFinder", BESIDE["LRFinder", "refine"])])
def test_what_is_compared_with_comes_out_again(name: str, base: dict[str, Any]) -> None:
    """Otherwise every argument would seem to change something."""
    torch.manual_seed(0)
    again = repr(outcome(name, base, False))
    torch.manual_seed(0)
    assert again == outcome_to_compare_with(name, base, False)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", ["foreach", "adamw fused", "momentum fused"])
@pytest.mark.parametrize("manual", [False, True])
def test_observers_leave_the_weights_bit_identical(precision: str, kind: str, manual: bool) -> None:
    alone, watched = (Classifier(optimizer(kind), manual=manual) for _ in range(2))
    fit(alone, precision=precision)
    fit(watched, [GradientMonitor(update_ratio=True, groups={"head": r"4\."}, norm_type=1.0)], precision=precision)
    assert torch.equal(weights(alone), weights(watched))
