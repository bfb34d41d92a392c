"""A list of callbacks at their defaults writes few scalars, however many layers the network has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import (
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LossScaleGuard,
    LRFinder,
    LRSchedule,
    PrecisionDoctor,
    SanityCheck,
    TrainingDoctor,
    recipe,
)
from lightning_tricks.recipes import KINDS
from tests.covering import cells
from tests.problems import Memory, trainer

pytestmark = pytest.mark.filterwarnings("ignore")
MOST = 40


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(x + self.second_norm(self.second(inner)))


class LastOfLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


class MeanOfTransformer(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.embed(x)).mean(1))
        return out


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def residual_network() -> nn.Module:
    blocks = [Residual(8) for _ in range(8)]
    stem = [nn.Unflatten(1, (3, 2)), nn.Conv2d(3, 8, 3, padding=1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP": mlp,
    "residual network": residual_network,
    "LSTM": LastOfLSTM,
    "transformer": lambda: MeanOfTransformer(2),
    "forecasting transformer": lambda: MeanOfTransformer(10),
}


class Forecaster(L.LightningModule):
    """Classifies, or with ``targets`` forecasts four values: a loss of its own either way."""

    def __init__(self, net: nn.Module, *, forecasts: bool) -> None:
        super().__init__()
        self.net, self.forecasts = net, forecasts

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        loss = nn.functional.mse_loss(out, x[:, -1, :4]) if self.forecasts else nn.functional.cross_entropy(out, y)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class LayerwiseDecay(Forecaster):
    """A group for every parameter, as fine-tuning has them."""

    def configure_optimizers(self) -> Any:
        groups = [{"params": [p], "lr": 1e-3 * 0.9**i} for i, p in enumerate(self.parameters())]
        return torch.optim.AdamW(groups)


class Optimizers(L.LightningModule):
    """Several networks that are trained by hand, each by its own optimizer, with a validation loss."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.nets = nn.ModuleList(mlp() for _ in range(count))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        for name, net, optimizer in zip("abcd", self.nets, self.optimizers(), strict=False):
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.log(f"{name}/loss", loss)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", nn.functional.cross_entropy(self.nets[0](x), y))

    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(net.parameters(), lr=1e-3) for net in self.nets]


def list_of_the_readme() -> list[Any]:
    return [
        SanityCheck(),
        LRFinder(num_steps=10),
        GradientMonitor(),
        GradientClip(1.0, nonfinite="skip"),
        LRSchedule("cosine", warmup="5%"),
        GradientAccumulation(4),
        LossScaleGuard(),
        PrecisionDoctor(),
        TrainingDoctor(action="stop"),
    ]


LISTS: dict[str, Callable[[], list[Any]]] = {
    "README": list_of_the_readme,
    **{kind: lambda kind=kind: recipe(kind) for kind in KINDS},  # type: ignore[misc]
}


# the list with most keys and the deepest models; the others take turns
ALWAYS = {("forecasting transformer", "README"), ("residual network", "README")}


def keys_of(model: str, tricks: list[Any], **arguments: Any) -> set[str]:
    torch.manual_seed(0)
    forecasts = model == "forecasting transformer"
    return keys_of_module(Forecaster(MODELS[model](), forecasts=forecasts), tricks, **arguments)


def keys_of_module(
    module: L.LightningModule, tricks: list[Any], *, validates: bool = False, **arguments: Any
) -> set[str]:
    generator = torch.Generator().manual_seed(0)
    rows = TensorDataset(torch.randn(64, 6, 8, generator=generator), torch.randint(4, (64,), generator=generator))
    memory = Memory()
    t = trainer(tricks, logger=memory, max_epochs=3, **arguments)
    t.fit(module, DataLoader(rows, 16, shuffle=True), DataLoader(rows, 16) if validates else None)
    return {key for _, row in memory.rows for key in row}


@functools.cache
def keys_of_list(model: str, name: str) -> set[str]:
    return keys_of(model, LISTS[name]())


@pytest.mark.parametrize(
    ("model", "name"), cells(list(MODELS), list(LISTS), one_in=4, always=lambda model, name: (model, name) in ALWAYS)
)
def test_a_default_list_writes_at_most_forty_keys(model: str, name: str) -> None:
    keys = keys_of_list(model, name)
    assert "grad/norm" in keys and "train/loss" in keys
    assert len(keys) <= MOST, sorted(keys)


def test_a_run_in_32_bit_logs_one_value_of_precision() -> None:
    keys = keys_of_list("residual network", "README")
    assert {key for key in keys if key.startswith("amp/")} == {"amp/headroom"}


def test_a_run_in_16_bit_stays_below_forty_keys_too() -> None:
    keys = keys_of("transformer", list_of_the_readme(), precision="16-mixed")
    precision = {key for key in keys if key.startswith("amp/")}
    assert {"amp/scale", "amp/skipped_steps", "amp/headroom", "amp/underflow"} <= precision
    assert 4 + 5 <= len(precision) <= 4 + 7 and len(keys) <= MOST


def test_per_layer_values_are_there_on_request() -> None:
    keys = keys_of("transformer", [GradientMonitor(per_layer=True), PrecisionDoctor(modules=["*"])])
    parameters = len(list(MeanOfTransformer(2).parameters()))
    assert len([key for key in keys if key.startswith("grad/norm/")]) == parameters
    assert len([key for key in keys if key.startswith("amp/headroom/")]) > 10


def test_a_group_for_every_parameter_adds_five_curves_and_no_more() -> None:
    module = LayerwiseDecay(MODELS["forecasting transformer"](), forecasts=True)
    assert len(module.configure_optimizers().param_groups) > 100
    keys = keys_of_module(module, list_of_the_readme())
    assert len([key for key in keys if key.startswith("schedule/lr/")]) == 5
    assert len(keys) <= MOST, sorted(keys)


@pytest.mark.parametrize("count", [3, 4])
def test_several_optimizers_stay_below_forty_keys_too(count: int) -> None:
    unfit = (LRFinder, GradientAccumulation)  # (they refuse manual optimization by name)
    tricks = [trick for trick in list_of_the_readme() if not isinstance(trick, unfit)]
    keys = keys_of_module(Optimizers(count), tricks, validates=True)
    assert {f"grad/norm/optimizer{i}" for i in range(count)} <= keys
    ours = {key for key in keys if not key.endswith("/loss") or key.startswith("diagnosis/")}
    assert len(keys if count == 3 else ours) <= MOST, sorted(keys)
