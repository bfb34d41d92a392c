"""One Trainer and many callbacks, in any order of fit, stop, save, resume, raise, validate and predict."""

from __future__ import annotations

import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn

from lightning_tricks import GradientClip, LRSchedule
from tests.laws.strategies import PROFILE, example
from tests.matrix import OBSERVERS
from tests.problems import STRICT, Classifier, loader, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")

BATCHES = 3
HOOKS = ("on_fit_start", "on_train_start", "on_train_batch_start", "on_before_backward", "on_before_optimizer_step",
         "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end", "on_validation_start", "on_train_end")  # fmt: skip
RECORDS = {"health.json", "health.txt"}  # what the doctor leaves of a run that died


# (not on the module, where ExactResume would save it)
STEPS: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


class Module(Classifier):
    """Counts the steps that its optimizers really make: the machine's own model of the clock."""

    @property
    def steps(self) -> int:
        return STEPS.get(self, 0)

    def configure_optimizers(self) -> Any:
        module = self

        class Counting(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                done = super().step(closure)
                STEPS[module] = module.steps + 1
                return done

        return Counting(self.parameters(), lr=0.01, momentum=0.9)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0])


class Disturbance(L.Callback):
    """Stops, or raises, in some hook once it is armed."""

    def __init__(self) -> None:
        self.hook, self.after, self.stop = "", 0, False
        for name in HOOKS:
            setattr(self, name, lambda trainer, *rest, name=name, **more: self._heard(trainer, name))

    def _heard(self, trainer: Any, name: str) -> None:
        if name != self.hook:
            return
        self.after -= 1
        if self.after < 0:
            self.hook = ""
            if not self.stop:
                raise InterruptedError(name)
            trainer.should_stop = True


def overridden(owner: Any) -> set[str]:
    """Names of the methods of its class that an object has replaced by its own."""
    return {name for name in vars(owner) if callable(getattr(type(owner), name, None))}


def foreign(t: L.Trainer, module: nn.Module) -> dict[str, set[str]]:
    """What objects of Lightning carry: attributes by owner, and methods that were replaced."""
    owners = {"trainer": t, "module": module, "strategy": t.strategy, "precision": t.precision_plugin,
              "fit loop": t.fit_loop, "epoch loop": t.fit_loop.epoch_loop,
              "optimization": t.fit_loop.epoch_loop.automatic_optimization}  # fmt: skip
    return {name: set(vars(owner)) | {f"{n}()" for n in overridden(owner)} for name, owner in owners.items()}


def bare() -> dict[str, set[str]]:
    """The same of a Trainer that has done everything without a callback of ours."""
    t, module = trainer([], max_epochs=1), Module()
    t.fit(module, loader(24), loader(8))
    t.validate(module, loader(8), verbose=False)
    t.predict(module, loader(8))
    return foreign(t, module)


class TrainerMachine(RuleBasedStateMachine):
    """Every rule is something that a user does to a Trainer between two cells of a notebook."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="."))
        self.usual, self.threads = bare(), threading.active_count()
        self.saved: list[tuple[Path, int]] = []
        self.before = self.base = self.last = 0
        self.died = False
        self.renew()

    def renew(self) -> None:
        """Another Trainer with callbacks of its own."""
        watching = [example(name) for name in OBSERVERS]
        self.disturbance, self.schedule = Disturbance(), LRSchedule(warmup=5, total=10_000)
        self.module = Module()
        self.clip = GradientClip(1.0)
        self.t = trainer([*watching, self.clip, self.schedule, self.disturbance], max_epochs=0,
                         default_root_dir=self.folder)  # fmt: skip
        self.base = self.last = 0
        self.fitted = False

    def fit(self, **given: Any) -> None:
        self.t.should_stop = False
        self.t.fit_loop.max_epochs = self.t.current_epoch + 1
        self.t.fit(self.module, loader(8 * BATCHES), loader(8), **given)
        self.fitted = True

    @rule()
    def fit_some_more(self) -> None:
        self.disturbance.hook = ""
        self.fit()

    @rule(after=st.integers(0, 2))
    def stop_in_the_middle(self, after: int) -> None:
        self.disturbance.hook, self.disturbance.after, self.disturbance.stop = "on_train_batch_end", after, True
        self.fit()

    @rule(hook=st.sampled_from(HOOKS), after=st.integers(0, 2))
    def die(self, hook: str, after: int) -> None:
        self.disturbance.hook, self.disturbance.after, self.disturbance.stop = hook, after, False
        try:
            self.fit()
        except InterruptedError:
            self.died = True

    @precondition(lambda self: self.fitted)
    @rule()
    def save(self) -> None:
        path = self.folder / f"{len(self.saved)}.ckpt"
        self.t.save_checkpoint(path)
        self.saved.append((path, self.base + self.module.steps))

    @precondition(lambda self: self.saved)
    @rule()
    def resume_elsewhere(self) -> None:
        path, count = self.saved[-1]
        self.renew()
        self.base = self.last = count
        epochs = torch.load(path, weights_only=True)["epoch"] + 1
        self.t.fit_loop.max_epochs = epochs
        self.t.fit(self.module, loader(8 * BATCHES), loader(8), ckpt_path=path, **STRICT)
        self.fitted = True

    @rule()
    def start_anew(self) -> None:
        self.renew()

    @precondition(lambda self: self.fitted)
    @rule()
    def validate(self) -> None:
        before = weights(self.module)
        self.t.validate(self.module, loader(8), verbose=False)
        assert torch.equal(before, weights(self.module))

    @precondition(lambda self: self.fitted)
    @rule()
    def predict(self) -> None:
        before = weights(self.module)
        self.t.predict(self.module, loader(8))
        assert torch.equal(before, weights(self.module))

    @invariant()
    def no_hook_is_left(self) -> None:
        for optimizer in self.t.optimizers:
            assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
            assert not {"grad_scale", "found_inf"} & set(vars(optimizer))
        for inner in self.module.modules():
            hooks = {k: v for k, v in vars(inner).items() if k.endswith("_hooks") and v}
            assert not hooks, f"{type(inner).__name__}: {sorted(hooks)}"
        for p in self.module.parameters():
            assert not p._backward_hooks and not p._post_accumulate_grad_hooks

    @invariant()
    def nothing_of_lightnings_is_replaced(self) -> None:
        for owner, names in foreign(self.t, self.module).items():
            assert names <= self.usual[owner], f"{owner}: {names - self.usual[owner]}"

    @invariant()
    def the_clock_is_right_and_never_goes_back(self) -> None:
        run = self.clip.run_or_none
        # (the state also where a resume has restored the clock and found nothing to train)
        applied = [] if run is None else run.clock.state_dict()["applied"]
        counted = applied[0] if applied else self.base
        assert counted == self.base + self.module.steps
        assert counted >= self.last
        self.last = counted

    @invariant()
    def the_weights_are_finite(self) -> None:
        assert weights(self.module).isfinite().all()

    @invariant()
    def no_thread_and_no_file_is_left(self) -> None:
        assert threading.active_count() <= self.threads
        left = {p.name for p in self.folder.rglob("*") if p.is_file()} - {path.name for path, _ in self.saved}
        assert left <= (RECORDS if self.died else set()), left


TestTrainerMachine = TrainerMachine.TestCase
TestTrainerMachine.settings = settings(PROFILE, max_examples=7, stateful_step_count=10)
