"""Cells and molecules: scvi-tools, which makes its Trainer itself, and chemprop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L

from tests.strangers.stranger import QUIET, Stranger

# -- scvi-tools -------------------------------------------------------------------------------------------------------


def _seed_its_splits() -> None:
    """Let it split its cells in the same way in every training. It adds a flag for JAX each time, which is taken back."""
    import scvi

    flags = os.environ.get("XLA_FLAGS")
    scvi.settings.seed = 0
    os.environ.pop("XLA_FLAGS", None)
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags


def _scvi(
    model: str, callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None, **registry: Any
) -> None:
    import scvi
    from scvi.data import synthetic_iid

    L.seed_everything(0, verbose=False)
    _seed_its_splits()
    cells = synthetic_iid(batch_size=60, n_genes=20, n_proteins=0, n_regions=0)
    made = getattr(scvi.model, model)
    made.setup_anndata(cells, batch_key="batch", **registry)
    network = made(cells, n_hidden=16, n_latent=4)
    its_own = ("enable_model_summary",)
    trainer = {name: value for name, value in QUIET.items() if name not in its_own}
    network.train(
        batch_size=16,
        train_size=0.8,
        callbacks=callbacks,
        ckpt_path=checkpoint,
        **{**trainer, "max_epochs": 2, "simple_progress_bar": False, **arguments},
    )
    network.get_latent_representation()


def scvi_autoencoder(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    _scvi("SCVI", callbacks, arguments, checkpoint)


def scanvi_classifier(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    _scvi("SCANVI", callbacks, arguments, checkpoint, labels_key="labels", unlabeled_category="label_0")


# -- chemprop ---------------------------------------------------------------------------------------------------------

_MOLECULES = ["CCO", "CCN", "CCC", "c1ccccc1", "CC(=O)O", "CCOC", "CNC", "C1CCCCC1", "CCCl", "CC#N", "OCCO", "CC(C)C"]


def message_passing(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    from chemprop import data, models, nn

    L.seed_everything(0, verbose=False)
    points = [data.MoleculeDatapoint.from_smi(smiles, [float(len(smiles))]) for smiles in _MOLECULES * 4]
    training = data.MoleculeDataset(points)
    scaler = training.normalize_targets()
    output = nn.UnscaleTransform.from_standard_scaler(scaler)
    module = models.MPNN(
        nn.BondMessagePassing(d_h=16, depth=2, dropout=0.1),
        nn.MeanAggregation(),
        nn.RegressionFFN(input_dim=16, hidden_dim=16, output_transform=output),
        batch_norm=True,
    )
    trainer = L.Trainer(callbacks=callbacks, **{**QUIET, "max_epochs": 2, **arguments})
    trainer.fit(
        module,
        data.build_dataloader(training, batch_size=6, seed=0),  # (the seed makes a sampler that shuffles its own array)
        ckpt_path=checkpoint,
        weights_only=False if checkpoint else None,  # (its hyperparameters hold classes)
    )


_SCVI: dict[str, Any] = {
    "package": "scvi-tools",
    "imports": ("scvi",),
    "hidden": True,
}

STRANGERS = (
    Stranger("scvi-tools SCVI", scvi_autoencoder, **_SCVI),
    Stranger(
        "scvi-tools SCANVI",
        scanvi_classifier,
        # a batch is one of all cells, and one of those that have labels
        conflicts={"GradientAccumulation": "holds tensors whose first dimensions differ"},
        arguments={"GradientAccumulation": {"weight": "equal"}},
        **_SCVI,
    ),
    Stranger("chemprop MPNN", message_passing, package="chemprop", imports=("chemprop",)),
)
