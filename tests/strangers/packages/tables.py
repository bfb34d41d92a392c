"""Tables of numbers and categories: pytorch-tabular, which makes its Trainer itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import numpy

from tests.strangers.stranger import QUIET, Stranger, resumed_by_hand


def _table(rows: int = 160) -> Any:
    import pandas

    generator = numpy.random.default_rng(0)
    table = pandas.DataFrame(generator.normal(size=(rows, 4)), columns=["a", "b", "c", "d"])
    table["kind"] = generator.choice(["x", "y", "z"], size=rows)
    table["target"] = (table.a + (table.kind == "x") > 0).astype(int)
    return table


def _pytorch_tabular(
    config: str, callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None, **hyperparameters: Any
) -> None:
    from pytorch_tabular import TabularModel, models
    from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig

    L.seed_everything(0, verbose=False)
    # (the configuration has arguments of its own for these)
    its_own = ("logger", "accelerator", "devices", "enable_checkpointing")
    trainer = {name: value for name, value in {**QUIET, **arguments}.items() if name not in its_own}
    model = TabularModel(
        data_config=DataConfig(target=["target"], continuous_cols=["a", "b", "c", "d"], categorical_cols=["kind"]),
        model_config=getattr(models, config)(task="classification", **hyperparameters),
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(
            batch_size=16,
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            early_stopping=None,
            checkpoints="valid_loss",
            load_best=False,
            progress_bar="none",
            seed=0,
            trainer_kwargs=trainer,
        ),
        verbose=False,
    )
    table = _table()
    with resumed_by_hand("pytorch_lightning", checkpoint):
        model.fit(train=table[:128], validation=table[128:], callbacks=callbacks, seed=0)
    model.predict(table[128:])


def category_embedding(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    _pytorch_tabular("CategoryEmbeddingModelConfig", callbacks, arguments, checkpoint, layers="16-16", dropout=0.1)


def ft_transformer(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    small = {"input_embed_dim": 8, "num_heads": 2, "num_attn_blocks": 1}
    _pytorch_tabular("FTTransformerConfig", callbacks, arguments, checkpoint, **small)


_TABULAR: dict[str, Any] = {
    "package": "pytorch-tabular",
    "imports": ("pytorch_tabular",),
    "namespace": "pytorch_lightning",
    "hidden": True,
}

STRANGERS = (
    Stranger("pytorch-tabular CategoryEmbeddingModel", category_embedding, **_TABULAR),
    Stranger(
        "pytorch-tabular FTTransformer",
        ft_transformer,
        **_TABULAR,
    ),
)
