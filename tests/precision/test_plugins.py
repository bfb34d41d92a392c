from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as L
import lightning.pytorch.plugins
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_tricks import CachedMixedPrecision, UnsupportedError
from lightning_tricks.precision import plugins
from tests.problems import Classifier, loader, scaler, sgd, weights


class Casts(TorchDispatchMode):
    """Counts casts of weights to 16 bit."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and isinstance(args[0], nn.Parameter):
            self.count += 1
        return func(*args, **(kwargs or {}))


class Recurrent(nn.Module):
    """Calls one layer 20 times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.layer, self.out = nn.Linear(64, 24), nn.Linear(24, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        for _ in range(20):
            h = torch.tanh(self.layer(h))
        return self.out(h)


def trained(plugin: Any, module: Any, n: int = 32) -> tuple[int, Tensor]:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    t = L.Trainer(accelerator="cpu", max_epochs=1, logger=False, plugins=[plugin], **quiet)
    with Casts() as casts:
        t.fit(module, loader(n))
    return casts.count, weights(module)


@pytest.mark.cache
def test_a_layer_that_is_called_20_times_is_cast_once() -> None:
    theirs, their_weights = trained(MixedPrecision("bf16-mixed", "cpu"), Classifier(net=Recurrent()))
    ours, our_weights = trained(CachedMixedPrecision("bf16-mixed", "cpu"), Classifier(net=Recurrent()))
    every_call = 4 * 2 * 22  # weight and bias, in 4 steps
    assert ours == 4 * 2 * 3
    assert theirs == (ours if plugins.lightning_caches() else every_call), "lightning>2.6.6 caches too (#21616)"
    # with the cache the gradients of 20 calls are added up in bfloat16 before they are cast back
    torch.testing.assert_close(our_weights, their_weights, rtol=2e-2, atol=2e-3)


class TwoSteps(L.LightningModule):
    """Manual optimization: a layer is used again after its own step, all in one training_step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = nn.Linear(4, 4, bias=False)
        nn.init.ones_(self.layer.weight)
        self.outputs: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        for _ in range(2):
            out = self.layer(torch.ones(1, 4)).sum()
            self.outputs.append(float(out.detach()))
            optimizer.zero_grad()
            self.manual_backward(out)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return sgd(self.parameters(), lr=0.25)


@pytest.mark.cache
def test_after_a_manual_step_the_new_weights_are_used() -> None:
    module = TwoSteps()
    trained(CachedMixedPrecision("bf16-mixed", "cpu"), module, n=8)
    assert module.outputs == [16.0, 12.0]


def test_torchs_cache_alone_would_use_the_old_weights() -> None:
    class Naive(MixedPrecision):
        def autocast_context_manager(self) -> torch.autocast:
            return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=True)

    module = TwoSteps()
    trained(Naive("bf16-mixed", "cpu"), module, n=8)
    assert module.outputs == [16.0, 16.0]


@pytest.mark.cache
def test_it_scales_the_loss_and_resumes(tmp_path: Any) -> None:
    plugin = CachedMixedPrecision("16-mixed", "cpu", scaler(256.0))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    t = L.Trainer(accelerator="cpu", max_epochs=1, logger=False, plugins=[plugin], default_root_dir=tmp_path, **quiet)
    t.fit(Classifier(), loader(16))
    t.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["CachedMixedPrecision"]["scale"] == 256.0
    assert CachedMixedPrecision("16-mixed", "cpu").scaler is not None


@pytest.mark.cache
@pytest.mark.parametrize("namespace", [L, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_either_trainer_takes_it(namespace: Any) -> None:
    plugin = CachedMixedPrecision("bf16-mixed", "cpu")
    t = namespace.Trainer(accelerator="cpu", plugins=[plugin], logger=False, enable_checkpointing=False)
    assert t.precision_plugin is plugin
    assert t.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("16-mixd", "cpu"), "Did you mean '16-mixed'"),
        (("bf16-mixed", "gpu"), "device must be one of cuda, cpu"),
        (("bf16-mixed", "cpu", scaler()), "needs no loss scale"),
    ],
)
def test_bad_arguments_are_named(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CachedMixedPrecision(*arguments)


def test_a_torch_that_loses_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "cache_is_safe", lambda: False)
    monkeypatch.setattr(plugins, "lightning_caches", lambda: False)
    with pytest.raises(UnsupportedError, match=r"loses the gradient .*pytorch #112583"):
        CachedMixedPrecision("bf16-mixed", "cpu")


@pytest.mark.cache
def test_the_probe_sees_a_lost_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    real = plugins.linear

    def forgetful(x: Tensor, weight: Tensor) -> Tensor:
        return real(x, weight.detach())

    before = torch.get_rng_state()
    assert plugins.cache_is_safe()
    monkeypatch.setattr(plugins, "linear", forgetful)
    assert not plugins.cache_is_safe()
    assert torch.equal(torch.get_rng_state(), before)


class CachesItself:
    """The region of the development branch of Lightning, in which autocast has its cache."""

    entered = 0

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        CachesItself.entered += 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield


@pytest.fixture
def lightning_that_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    for namespace in (lightning.pytorch.plugins, pytorch_lightning.plugins):
        monkeypatch.setattr(namespace.MixedPrecision, "forward_context", CachesItself.forward_context)
    monkeypatch.setattr(CachesItself, "entered", 0)


@pytest.mark.usefixtures("lightning_that_caches")
def test_where_lightning_caches_itself_its_region_is_used_and_old_weights_are_still_forgotten() -> None:
    assert plugins.lightning_caches()
    stock, ours = TwoSteps(), TwoSteps()
    trained(MixedPrecision("bf16-mixed", "cpu"), stock, n=8)
    before = CachesItself.entered
    trained(CachedMixedPrecision("bf16-mixed", "cpu"), ours, n=8)
    assert CachesItself.entered > before, "the region is Lightning's"
    assert stock.outputs == [16.0, 16.0], "the second output is of the old weights"
    assert ours.outputs == [16.0, 12.0]


@pytest.mark.usefixtures("lightning_that_caches")
def test_where_lightning_caches_itself_a_bug_of_torch_is_its_own_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "cache_is_safe", lambda: False)
    assert CachedMixedPrecision("bf16-mixed", "cpu").precision == "bf16-mixed"
