"""An observer that fails costs a warning and is switched off; the training, and every other callback, goes on."""

from __future__ import annotations

import functools
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch

import lightning_tricks
from lightning_tricks import AlarmError, GradientClip, GradientMonitor, TrickError, TrickWarning
from lightning_tricks.collapse.callbacks.units_probe import UnitsProbe
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.watch import Watch
from lightning_tricks.lifecycle.trick import Trick
from tests.covering import cells, played
from tests.matrix import ACTORS, EXAMPLES, OBSERVERS
from tests.problems import Classifier, Collapsed, Memory, digits, trainer, weights
from tests.together.problems import CALLBACKS, assert_clean

HOOKS = sorted(
    name
    for name in vars(L.Callback)
    if name.startswith("on_") and "load_checkpoint" not in name and "predict" not in name and "test" not in name
)
HOOKS += ["setup", "teardown", "state_dict"]
SMALL = ("_on_start", "_before_start", "_configure", "_on_optimizers_created", "_gradients_ready", "_updated", "_before_gradients_read", "_finished", "_cleanup",
         "_trick_state")  # fmt: skip
OF_PROBES = ("attach", "gather", "ready", "measure", "read", "statistics", "explain", "figure", "before_backward")


class Boom(Exception):
    """What is injected."""


def boom(*_: Any, **__: Any) -> Any:
    raise Boom("boom\nwith more lines")


class Validated(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


def training(callbacks: list[Any], module: Any = None) -> tuple[Any, Any, list[str]]:
    """Train with a validation in each epoch, and save a checkpoint."""
    module = Validated() if module is None else module
    data = torch.utils.data.DataLoader(digits(32), 8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        t = trainer(callbacks, max_epochs=2, logger=Memory())
        t.fit(module, data, data if isinstance(module, Validated) else None)
        t.save_checkpoint(Path("last.ckpt"))
    assert_clean(t, module)
    return t, module, [str(w.message) for w in said if issubclass(w.category, TrickWarning)]


@functools.cache
def clipped() -> torch.Tensor:
    return weights(training([GradientClip(0.5)])[1])


def failing(name: str, method: str, how: str, monkeypatch: Any) -> Trick:
    cls = getattr(lightning_tricks, name)
    if how == "subclass":
        cls = type(cls.__name__, (cls,), {method: boom})
    else:
        monkeypatch.setattr(cls, method, boom)
    made: Trick = cls(**EXAMPLES[name])
    return made


def assert_the_run_goes_on(trick: Trick, *, first: bool) -> None:
    name = type(trick).__name__
    others = [GradientClip(0.5), *([] if name == "GradientMonitor" else [GradientMonitor()])]
    _, module, said = training([trick, *others] if first else [*others, trick])
    assert torch.equal(weights(module), clipped()), "the clip beside it does what it does alone"
    ours = [text for text in said if "switched off" in text]
    assert len(ours) <= 1, ours
    for text in ours:
        assert text.startswith(f"{name}: Boom: boom with more lines (") and "\n" not in text
        assert text.endswith("It is switched off for the rest of this run; training goes on.")


def plain(name: str, method: str) -> Any:
    """A method of an observer without the guard that is around each class's own."""
    found = getattr(getattr(lightning_tricks, name), method)
    return getattr(found, "_unguarded", found)


def is_its_own(name: str, method: str) -> bool:
    """Return whether no observer before this one has the same method: most are inherited from a common class."""
    before = OBSERVERS[: OBSERVERS.index(name)]
    return all(plain(other, method) is not plain(name, method) for other in before)


def every_observer(methods: Sequence[str]) -> list[Any]:
    """Every observer with every method; each run plays a third of them, and every method that is written anywhere."""
    return cells(OBSERVERS, methods, one_in=3, always=is_its_own)


@pytest.mark.parametrize(("name", "hook"), every_observer(HOOKS))
def test_an_exception_in_any_hook(name: str, hook: str, monkeypatch: Any) -> None:
    one = (OBSERVERS.index(name) + HOOKS.index(hook)) % 2 == 0  # the other half in the other order
    assert_the_run_goes_on(failing(name, hook, "subclass", monkeypatch), first=one)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"])
@pytest.mark.parametrize("how", ["subclass", "patched"])
@pytest.mark.parametrize("name", ["GradientMonitor", "TrainingDoctor"])
def test_an_exception_in_the_hooks_in_which_one_works_for_all(
    name: str, how: str, hook: str, first: bool, monkeypatch: Any
) -> None:
    clipped()  # (before the class is patched)
    assert_the_run_goes_on(failing(name, hook, how, monkeypatch), first=first)


@pytest.mark.parametrize(("name", "method"), every_observer(SMALL))
def test_an_exception_in_any_method_of_its_own(name: str, method: str, monkeypatch: Any) -> None:
    assert_the_run_goes_on(failing(name, method, "subclass", monkeypatch), first=len(method) % 2 == 0)


@pytest.mark.parametrize("method", OF_PROBES)
@pytest.mark.parametrize("name", [n for n in OBSERVERS if issubclass(getattr(lightning_tricks, n), Detector)])
def test_an_exception_in_any_method_of_its_probe(name: str, method: str) -> None:
    cls = getattr(lightning_tricks, name)

    def _make_parts(self: Any) -> Any:
        parts = cls._make_parts(self)
        setattr(next(part for part in parts if isinstance(part, Watch)).probe, method, boom)
        return parts

    made = type(name, (cls,), {"_make_parts": _make_parts})(**EXAMPLES[name])
    assert_the_run_goes_on(made, first=len(method) % 2 == 0)


def test_it_is_told_that_it_failed(monkeypatch: Any) -> None:
    """Not only that nothing happens: the hooks that Lightning calls in such a run are heard of."""
    for hook in ("on_train_start", "on_train_batch_start", "on_before_optimizer_step", "on_validation_end", "teardown"):
        trick = failing("GradientMonitor", hook, "subclass", monkeypatch)
        *_, said = training([trick])
        assert len([text for text in said if "switched off" in text]) == 1, hook


def test_observers_are_those_of_the_matrix() -> None:
    assert {n for n in CALLBACKS if getattr(lightning_tricks, n).observer} == set(OBSERVERS)
    assert not any(getattr(lightning_tricks, n).observer for n in ACTORS)


def test_every_method_that_is_written_anywhere_fails_in_every_run() -> None:
    for methods in (HOOKS, SMALL):
        failing_by_default = played(every_observer(methods))
        assert {name for name, _ in failing_by_default} == set(OBSERVERS)
        written = {(method, plain(name, method)) for name in OBSERVERS for method in methods}
        assert {(method, plain(name, method)) for name, method in failing_by_default} == written


def test_a_failed_observer_takes_its_hooks_from_the_module_and_works_again_in_the_next_fit(monkeypatch: Any) -> None:
    gather, fails = UnitsProbe.gather, [True]

    def once(self: Any, *arguments: Any, **named: Any) -> int:
        if fails.pop() if fails else False:
            boom()
        return gather(self, *arguments, **named)

    monkeypatch.setattr(UnitsProbe, "gather", once)
    detector, module = lightning_tricks.DeadUnits(every_n_steps=1, patience=1, grace=0), Classifier()
    hooks: list[int] = []

    class Look(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            hooks.append(sum(len(m._forward_hooks) for m in module.modules()))

    _, _, said = training([detector, Look()], module)
    assert hooks[0] == 1 and hooks[-1] == 0 and len(said) == 1
    assert detector.history == []
    training([detector])
    assert len(detector.history) > 0


@pytest.mark.parametrize("broken", ["_seen", "_flowed"])
def test_an_error_in_a_hook_on_a_module_does_not_reach_the_users_forward_pass(broken: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("lightning_tricks.precision.watch.Watch." + broken, boom)
    _, alone, _ = training([])
    _, module, said = training([lightning_tricks.PrecisionDoctor(every_n_steps=1)])
    assert torch.equal(weights(module), weights(alone)) and len(said) == 1


def test_alarms_that_shall_end_a_run_and_what_a_users_action_raises_still_do() -> None:
    def prune(verdict: Any) -> None:
        raise KeyError("pruned")

    options: dict[str, Any] = {"every_n_steps": 1, "patience": 1, "grace": 0}
    with pytest.raises(AlarmError):
        training([lightning_tricks.DeadUnits(action="raise", **options)], Collapsed())
    with pytest.raises(KeyError, match="pruned"):
        training([lightning_tricks.DeadUnits(action=prune, **options)], Collapsed())


def test_what_is_refused_by_name_before_the_first_update_still_ends_the_run() -> None:
    with pytest.raises(TrickError, match="there is no such module"):
        training([lightning_tricks.RepresentationCollapse("nowhere")])
    with pytest.raises(TrickError, match="training_step returns no such key"):
        training([lightning_tricks.PredictionCollapse("nothing")])


def test_a_refusal_after_the_first_batch_is_an_error_of_its_own() -> None:
    """The batches change their form in mid-training: nothing that the user could have known at the start."""

    class Echo(torch.nn.Module):
        calls = 0

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return x if self.calls < 5 else "nothing"

    class Changing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.echo(batch[0])
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    module = Changing()
    module.echo = Echo()
    *_, said = training([lightning_tricks.ModeCollapse("echo", every_n_steps=1)], module)
    assert len(said) == 1 and "its output holds no batch of samples" in said[0] and "switched off" in said[0]


def test_an_actor_fails_as_ever(monkeypatch: Any) -> None:
    with pytest.raises(Boom):
        training([type("GradientClip", (GradientClip,), {"_gradients_ready": boom})(0.5)])


def test_implicit_callbacks_are_guarded_too(monkeypatch: Any) -> None:
    monkeypatch.setattr(GradientMonitor, "_gradients_ready", boom)
    with monkeypatch.context() as patch:
        patch.setenv("LIGHTNING_TRICKS", "GradientMonitor")
        _, module, said = training([])
    _, alone, _ = training([])
    assert torch.equal(weights(module), weights(alone)) and len(said) == 1


def test_a_class_that_is_guarded_can_be_pickled_and_looks_like_itself() -> None:
    monitor = pickle.loads(pickle.dumps(GradientMonitor(every_n_steps=3)))
    assert monitor.every_n_steps == 3
    assert GradientMonitor.on_train_end.__doc__ == "Deliver what is still on its way to the loggers, and conclude."
