from __future__ import annotations

import copy
import warnings
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from lightning_tricks import ConflictError, GradientClip, GradientMonitor, LRSchedule, TricksMixin, TrickWarning
from lightning_tricks.lifecycle.trick import Trick
from tests.problems import STRICT, loader, trainer, weights


class Net(TricksMixin, L.LightningModule):
    tricks = "transformer"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


def ours(t: Any) -> list[str]:
    return [type(c).__name__ for c in t.callbacks if isinstance(c, Trick)]


def test_a_module_brings_its_recipe_and_its_optimizer() -> None:
    t = trainer()
    t.fit(Net(), loader(64))
    names = ["GradientMonitor", "GradientClip", "LRSchedule", "TrainingDoctor", "LossScaleGuard", "PrecisionDoctor"]
    assert ours(t) == names
    optimizer = t.optimizers[0]
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["betas"] == (0.9, 0.95)
    decayed = [p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]]
    assert len(decayed) == 2 and all(p.ndim == 2 for p in decayed)
    assert all(g["fused"] for g in optimizer.param_groups)


def test_what_is_passed_comes_before_hyperparameters_and_those_before_the_class() -> None:
    class WithHyperparameters(Net):
        def __init__(self, tricks: Any = None, given: Any = None, lr: float = 0.25) -> None:
            super().__init__(tricks=given)
            self.save_hyperparameters(ignore=["given"])

    assert WithHyperparameters().recipe.kind == "transformer"
    assert WithHyperparameters(tricks="cnn").recipe.kind == "cnn"
    assert WithHyperparameters(tricks="cnn", given="rnn").recipe.kind == "rnn"
    module = WithHyperparameters(tricks={"recipe": "cnn", "optimizer": {"lr": 9.0}})
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.25, "the module's own lr comes first"
    module = WithHyperparameters(tricks="cnn", lr=0.5)
    module.learning_rate = 7.0
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.5
    assert Net(tricks=[]).recipe == []


def test_the_trainers_own_stays_and_that_is_said_once() -> None:
    own = GradientClip(0.125)
    module, t = Net(), trainer([own], max_epochs=1)
    with pytest.warns(
        TrickWarning, match="the Trainer has a GradientClip of its own; the module's is left out"
    ) as said:
        t.fit(module, loader(64))
        t.fit_loop.max_epochs = 2
        t.fit(module, loader(64))
    assert len([w for w in said if "of its own" in str(w.message)]) == 1
    assert [c for c in t.callbacks if isinstance(c, GradientClip)] == [own]
    assert ours(t).count("GradientMonitor") == 1


def test_a_subclass_in_the_trainer_counts_as_its_own() -> None:
    class Stop(EarlyStopping):
        pass

    module = Net(tricks=[EarlyStopping("loss"), GradientMonitor()])
    stop = Stop("grad/norm", patience=100)
    t = trainer([stop])
    with pytest.warns(TrickWarning, match="a EarlyStopping of its own"):
        t.fit(module, loader(64))
    assert [c for c in t.callbacks if isinstance(c, EarlyStopping)] == [stop]


def test_a_second_fit_and_a_second_trainer_are_silent_and_start_anew() -> None:
    module = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrickWarning)
        trainer().fit(module, loader(64))
        t = trainer()
        t.fit(module, loader(64))
    assert ours(t).count("GradientMonitor") == 1
    fresh = Net()
    trainer().fit(fresh, loader(64))
    again = Net()
    trainer().fit(again, loader(64))
    assert torch.equal(weights(fresh), weights(again))


def test_it_trains_as_the_callbacks_and_the_optimizer_by_hand() -> None:
    class ByHand(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = Net().net

        training_step = Net.training_step

        def configure_optimizers(self) -> Any:
            groups = [
                {"params": [self.net[0].weight, self.net[3].weight], "weight_decay": 0.1},
                {
                    "params": [self.net[0].bias, self.net[1].weight, self.net[1].bias, self.net[3].bias],
                    "weight_decay": 0.0,
                },
            ]
            return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)

    mixed, by_hand = Net(), ByHand()
    trainer(max_epochs=3).fit(mixed, loader(64))
    tricks = [GradientClip(1.0), LRSchedule("cosine", warmup="5%", final=0.1)]
    trainer(tricks, max_epochs=3).fit(by_hand, loader(64))
    assert torch.equal(weights(mixed), weights(by_hand))


def test_the_users_optimizer_and_callbacks_stay_also_those_of_a_base_class() -> None:
    class Own(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adagrad(self.parameters(), lr=0.5)

        def configure_callbacks(self) -> Any:
            return [*super().configure_callbacks(), EarlyStopping("grad/norm", patience=99)]

    t = trainer()
    t.fit(Own(tricks={"recipe": "transformer", "TrainingDoctor": {"action": "log"}}), loader(64))
    assert isinstance(t.optimizers[0], torch.optim.Adagrad)
    assert any(isinstance(c, EarlyStopping) for c in t.callbacks) and "GradientClip" in ours(t)

    class Boring(TricksMixin, BoringModel):
        tricks = ("GradientMonitor",)

        def configure_callbacks(self) -> Any:
            return super().configure_callbacks()

    t = trainer(limit_train_batches=4, limit_val_batches=0)
    t.fit(Boring())
    assert isinstance(t.optimizers[0], torch.optim.SGD) and ours(t) == ["GradientMonitor"]


def test_the_wrong_order_of_base_classes_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Write class Wrong\(TricksMixin, LightningModule\)"):

        class Wrong(L.LightningModule, TricksMixin):
            pass


def test_it_goes_together_with_other_mixins() -> None:
    class Named:
        def __init__(self, *args: Any, name: str = "", **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.given_name = name

        def configure_callbacks(self) -> Any:
            return [EarlyStopping("grad/norm", patience=99)]

    class Before(Named, Net):
        def configure_callbacks(self) -> Any:
            return Net.configure_callbacks(self)

    class After(TricksMixin, Named, L.LightningModule):
        tricks = "cnn"

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.net = nn.Sequential(nn.Linear(64, 10))

        training_step = Net.training_step

    for cls in (Before, After):
        module = cls(name="seven", tricks="rnn")
        t = trainer()
        t.fit(module, loader(64))
        assert module.given_name == "seven" and "GradientClip" in ours(t), cls
    assert any(isinstance(c, EarlyStopping) for c in t.callbacks)


def test_checkpoints_resume_and_load_without_the_tricks_in_code(tmp_path: Any) -> None:
    class Saved(Net):
        def __init__(self, tricks: Any = "rnn", width: int = 16) -> None:
            super().__init__(tricks=tricks)
            self.save_hyperparameters()

    whole, first = Saved(), Saved()
    trainer(max_epochs=4).fit(whole, loader(64))

    class Halt(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "a.ckpt")
                raise KeyError("the power went off")

    with pytest.raises(KeyError):
        trainer([Halt()], max_epochs=4).fit(first, loader(64))
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    loaded = Saved.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert loaded.recipe.kind == "rnn" and torch.equal(weights(loaded), weights(first))
    resumed = Saved()
    trainer(max_epochs=4).fit(resumed, loader(64), ckpt_path=tmp_path / "a.ckpt", **STRICT)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_compiled_module_has_them_too() -> None:
    module, plain, t = Net(), Net(), trainer(max_epochs=2)
    with pytest.warns(TrickWarning, match="compiled as a whole, so PrecisionDoctor is left out"):
        t.fit(torch.compile(module, backend="eager"), loader(64))
    torch._dynamo.reset()
    assert "GradientClip" in ours(t) and "TrainingDoctor" in ours(t) and "PrecisionDoctor" not in ours(t)
    trainer(max_epochs=2).fit(plain, loader(64))
    torch.testing.assert_close(weights(module), weights(plain))


def test_a_module_can_be_copied_after_a_fit() -> None:
    module = Net()
    trainer().fit(module, loader(64))
    module.trainer = None
    copied = copy.deepcopy(module)
    assert torch.equal(weights(copied), weights(module)) and len(copied.recipe) == len(module.recipe)


def test_a_gan_gets_two_optimizers_and_manual_optimization_is_asked_for() -> None:
    class Gan(TricksMixin, L.LightningModule):
        tricks = "gan"

        def __init__(self, manual: bool) -> None:
            super().__init__()
            self.automatic_optimization = not manual
            self.generator, self.discriminator = nn.Linear(4, 64), nn.Linear(64, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            g, d = self.optimizers()
            fake = self.generator(torch.randn(len(batch[0]), 4))
            for optimizer, loss in (
                (d, self.discriminator(fake.detach()).mean()),
                (g, -self.discriminator(fake).mean()),
            ):
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

    t = trainer()
    t.fit(Gan(True), loader(64))
    assert [o.defaults["betas"] for o in t.optimizers] == [(0.5, 0.999)] * 2
    with pytest.raises(ConflictError, match=r"needs manual optimization\. Set self\.automatic_optimization = False"):
        trainer().fit(Gan(False), loader(64))


def test_lightnings_own_clipping_still_works() -> None:
    for precision in ("32-true", "bf16-mixed"):
        t = trainer(precision=precision, gradient_clip_val=1.0)
        t.fit(Net(tricks={"recipe": "rnn", "GradientClip": None, "LossScaleGuard": None}), loader(64))
        assert not t.optimizers[0].param_groups[0].get("fused")


def test_in_the_other_namespace() -> None:
    class Other(TricksMixin, pytorch_lightning.LightningModule):  # type: ignore[misc]
        tricks = "rnn"

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(64, 10)

        training_step = Net.training_step

    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    t = pytorch_lightning.Trainer(accelerator="cpu", max_epochs=1, log_every_n_steps=1, **quiet)
    t.fit(Other(), loader(64))
    assert "GradientClip" in ours(t)
