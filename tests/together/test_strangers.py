"""Modules that others wrote, unchanged, with everything switched on."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel, DemoModel, ManualOptimBoringModel
from lightning.pytorch.demos.lstm import LightningLSTM, SimpleLSTM
from lightning.pytorch.demos.transformer import LightningTransformer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_tricks import (
    GradientAccumulation,
    LRFinder,
    PrecisionDoctor,
    ProgressMetrics,
    SanityCheck,
    recipe,
)
from lightning_tricks.lifecycle.trick import Trick

pytestmark = pytest.mark.filterwarnings("ignore")
MANUAL_CANNOT = ("SanityCheck", "LRFinder", "GradientAccumulation")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """What the demos' ``WikiText2`` would have downloaded; ours is the standard library's."""
    source = Path(sysconfig.get_paths()["stdlib"]) / "textwrap.py"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wikitext-2.txt").write_text(source.read_text()[:3000] * 20)
    return tmp_path


def everything(kind: str, manual: bool, small: bool) -> list[Any]:
    more = [
        SanityCheck(overfit_batch=small),
        LRFinder(num_steps=30 if small else 10, apply=small),
        GradientAccumulation(2),
        ProgressMetrics(),
    ]
    # (the boring models bring a scheduler)
    tricks = [*recipe(kind, LRSchedule={"conflict": "replace"}), *more]
    if not any(isinstance(t, PrecisionDoctor) for t in tricks):
        tricks.append(PrecisionDoctor())
    return [t for t in tricks if not (manual and type(t).__name__ in MANUAL_CANNOT)]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (BoringModel, "cnn"),
        (ManualOptimBoringModel, "transformer"),
        (DemoModel, "finetune"),
        (LightningTransformer, "transformer"),
        (LightningLSTM, "rnn"),
    ],
)
def test_a_strangers_module_trains_with_the_full_pack(make: Any, kind: str, text: Path) -> None:
    torch.manual_seed(0)
    module: Any = make(vocab_size=400) if "vocab_size" in make.__init__.__code__.co_varnames else make()
    if make is LightningLSTM:  # as its authors wrote it, but narrower: four layers of 512 units take half a minute
        module.model = SimpleLSTM(vocab_size=400, ninp=32, nhid=32)
    manual = not module.automatic_optimization
    data = {}
    if isinstance(module, DemoModel):
        data = {"train_dataloaders": torch.utils.data.DataLoader(torch.randn(64, 32), 4)}
    small = isinstance(module, (BoringModel, DemoModel))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=8,
        limit_val_batches=2,
        log_every_n_steps=2,
        logger=TensorBoardLogger(text, "run"),
        enable_checkpointing=False,
        callbacks=everything(kind, manual, small),
    )
    trainer.fit(module, **data)
    tricks = [c for c in trainer.callbacks if isinstance(c, Trick)]
    assert len(tricks) >= 6
    assert tricks[0].run.clock.applied_on_host(0) == (8 if manual else 4)
    assert all(p.isfinite().all() for p in module.parameters())
