"""A module that is copied or pickled in the midst of a run: the copy has nothing of ours in it, and works by itself."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_tricks.modules.replaced import Hook, Replacement
from tests.matrix import EXAMPLES
from tests.problems import Classifier, Memory, loader, trainer
from tests.together.problems import CALLBACKS, example

pytestmark = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")


class Keeping(Classifier):
    """Keeps its network in its hyperparameters, as Lightning warns of and many do; samples for GenerationDrift."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__(net=net or nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.save_hyperparameters({"net": self.net}, logger=False)
        self.echo = nn.Identity()

    def sample(self, count: int) -> Any:
        return torch.rand(count, 64)


class WithCallbacks(Classifier):
    def __init__(self, callbacks: Any = ()) -> None:
        super().__init__()
        self.save_hyperparameters({"callbacks": list(callbacks)}, logger=False)


def through_pickle(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": through_pickle}


def ours(module: nn.Module) -> list[Any]:
    """What of us is in a module: hooks, and methods that were replaced."""
    hooks = (m._forward_hooks | m._forward_pre_hooks | m._backward_hooks for m in module.modules())
    inside = [hook for found in hooks for hook in found.values()]
    inside += [value for m in module.modules() for value in vars(m).values()]
    return [x for x in inside if isinstance(x, (Hook, Replacement)) or "lightning_tricks" in type(x).__module__]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_copy_of_the_module_is_free_of_the_callback(name: str, how: str) -> None:
    copies: list[Any] = []

    class Copy(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                copies.append(COPIES[how](pl_module))

    changed: dict[str, Any] = {"on_oom": "split"} if name == "GradientAccumulation" else {}
    trick = example(name, **changed)
    trainer([trick, Copy()], precision="16-mixed", logger=Memory(), max_epochs=1).fit(Keeping(), loader(48))
    (copied,) = copies
    assert ours(copied) == []
    x, y = next(iter(loader(8)))
    loss = copied.training_step((x, y), 0)
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_checkpoint_of_a_module_in_its_hyperparameters_is_written_and_read(name: str, tmp_path: Any) -> None:
    keep = L.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    tricks = [example(name), keep]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(tricks, logger=Memory(), enable_checkpointing=True).fit(Keeping(), loader(48))
    for path in tmp_path.glob("*.ckpt"):
        saved = torch.load(path, weights_only=False)
        net = saved["hyper_parameters"]["net"]
        assert ours(net) == []
        assert net(torch.zeros(1, 64)).shape == (1, 10)
    assert list(tmp_path.glob("*.ckpt"))


def test_callbacks_in_the_hyperparameters_are_saved_in_a_resumed_run_too(tmp_path: Any) -> None:
    def run(**arguments: Any) -> None:
        keep = L.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
        tricks = [*(example(name) for name in ("ExactResume", "ResumeGuard", "GradientMonitor")), keep]
        trainer(tricks, enable_checkpointing=True).fit(WithCallbacks(tricks), loader(48), **arguments)

    run()
    assert (tmp_path / "step=2.ckpt").exists()
    (tmp_path / "step=6.ckpt").unlink()
    run(ckpt_path=tmp_path / "step=2.ckpt", weights_only=False)
    assert (tmp_path / "step=6.ckpt").exists()


def test_every_callback_has_an_example() -> None:
    assert set(CALLBACKS) == set(EXAMPLES)


def test_a_hook_calls_its_function_and_a_copy_of_it_does_nothing() -> None:
    seen: list[int] = []
    hook = Hook(seen.append)
    hook(1)
    for copied in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        copied(2)
    assert seen == [1]
