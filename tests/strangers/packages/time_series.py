"""Forecasting: pytorch-forecasting, neuralforecast, darts, gluonts. The last three make their Trainer themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import numpy

from tests.strangers.stranger import NO_ACTIVATIONS, QUIET, Stranger, resumed_by_hand


def _waves(count: int = 4, length: int = 60) -> Any:
    """Noisy sines of different frequencies, as the long table that forecasting packages take."""
    import pandas

    generator = numpy.random.default_rng(0)
    rows = [
        {"series": f"s{i}", "time": t, "value": float(numpy.sin(t / (2 + i)) + 0.1 * generator.normal() + i)}
        for i in range(count)
        for t in range(length)
    ]
    return pandas.DataFrame(rows)


# -- pytorch-forecasting ----------------------------------------------------------------------------------------------


def _pytorch_forecasting(
    model: Any,
    callbacks: list[Any],
    arguments: Mapping[str, Any],
    checkpoint: str | None,
    hyperparameters: Mapping[str, Any],
    **dataset: Any,
) -> None:
    from pytorch_forecasting import TimeSeriesDataSet

    L.seed_everything(0, verbose=False)
    training = TimeSeriesDataSet(
        _waves(),
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=12,
        max_prediction_length=4,
        time_varying_unknown_reals=["value"],
        static_categoricals=["series"],
        **dataset,
    )
    validation = TimeSeriesDataSet.from_dataset(training, _waves(), predict=True, stop_randomization=True)
    module = model.from_dataset(
        training, learning_rate=0.01, hidden_size=8, dropout=0.1, optimizer="adam", log_interval=0, **hyperparameters
    )
    more = {"max_epochs": 2, "limit_train_batches": 6, "gradient_clip_val": 0.1}
    trainer = L.Trainer(callbacks=callbacks, **{**QUIET, **more, **arguments})
    trainer.fit(
        module,
        train_dataloaders=training.to_dataloader(train=True, batch_size=16, num_workers=0),
        val_dataloaders=validation.to_dataloader(train=False, batch_size=16, num_workers=0),
        ckpt_path=checkpoint,
        weights_only=False if checkpoint else None,  # (its hyperparameters hold encoders and metrics)
    )


def temporal_fusion_transformer(
    callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None
) -> None:
    from pytorch_forecasting import TemporalFusionTransformer
    from pytorch_forecasting.metrics import QuantileLoss

    small = {"attention_head_size": 2, "hidden_continuous_size": 4, "loss": QuantileLoss()}
    more = {"reduce_on_plateau_patience": 4}
    _pytorch_forecasting(
        TemporalFusionTransformer,
        callbacks,
        arguments,
        checkpoint,
        {**small, **more},
        time_varying_known_reals=["time"],
    )


def deep_ar_of_pytorch_forecasting(
    callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None
) -> None:
    from pytorch_forecasting import DeepAR
    from pytorch_forecasting.data import NaNLabelEncoder

    encoders = {"series": NaNLabelEncoder().fit(_waves().series)}
    _pytorch_forecasting(DeepAR, callbacks, arguments, checkpoint, {"rnn_layers": 2}, categorical_encoders=encoders)


# -- neuralforecast ---------------------------------------------------------------------------------------------------


def _neuralforecast(
    model: str,
    callbacks: list[Any],
    arguments: Mapping[str, Any],
    checkpoint: str | None,
    **hyperparameters: Any,
) -> None:
    import pandas
    from neuralforecast import NeuralForecast, models

    waves = _waves().rename(columns={"series": "unique_id", "time": "ds", "value": "y"})
    waves["ds"] = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(waves["ds"], unit="D")
    L.seed_everything(0, verbose=False)
    size = {"h": 4, "input_size": 12, "batch_size": 2, "windows_batch_size": 16}
    trainer = {**QUIET, "max_steps": 12, **arguments}
    made = getattr(models, model)(**size, scaler_type="standard", callbacks=callbacks, **hyperparameters, **trainer)
    forecast = NeuralForecast(models=[made], freq="D")
    with resumed_by_hand("pytorch_lightning", checkpoint):
        forecast.fit(waves, val_size=0)
    forecast.predict()  # (makes another Trainer with the same callbacks)


def nhits(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    small = {"stack_types": ["identity"], "n_blocks": [1], "mlp_units": [[16, 16]], "n_pool_kernel_size": [2]}
    more = {"n_freq_downsample": [2], "dropout_prob_theta": 0.1}
    _neuralforecast("NHITS", callbacks, arguments, checkpoint, **small, **more)


def lstm_of_neuralforecast(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    small = {"encoder_hidden_size": 8, "decoder_hidden_size": 8, "encoder_n_layers": 2, "encoder_dropout": 0.1}
    _neuralforecast("LSTM", callbacks, arguments, checkpoint, **small)


# -- darts ------------------------------------------------------------------------------------------------------------


def _darts(
    name: str, callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None, **hyperparameters: Any
) -> None:
    from darts import TimeSeries, models

    L.seed_everything(0, verbose=False)
    waves = _waves(2).pivot(index="time", columns="series", values="value").to_numpy()
    series = [TimeSeries.from_values(waves[:, i].astype("float32")) for i in range(2)]
    trainer = {**QUIET, "max_epochs": 2, "callbacks": callbacks, **arguments}
    made = getattr(models, name)(
        input_chunk_length=12, batch_size=16, dropout=0.1, random_state=0, pl_trainer_kwargs=trainer, **hyperparameters
    )
    with resumed_by_hand("pytorch_lightning", checkpoint):
        made.fit(series)
    made.predict(4, series=series[0])


def nbeats(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    small = {"output_chunk_length": 4, "num_stacks": 2, "num_blocks": 1, "num_layers": 2, "layer_widths": 16}
    _darts("NBEATSModel", callbacks, arguments, checkpoint, **small)


def rnn_of_darts(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    small = {"model": "LSTM", "hidden_dim": 8, "n_rnn_layers": 2, "training_length": 16}
    _darts("RNNModel", callbacks, arguments, checkpoint, **small)


# -- gluonts ----------------------------------------------------------------------------------------------------------


def _gluonts(
    estimator: str, callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None, **hyperparameters: Any
) -> None:
    from gluonts import torch as models
    from gluonts.dataset.common import ListDataset

    L.seed_everything(0, verbose=False)
    waves = [group.value.to_numpy("float32") for _, group in _waves().groupby("series")]
    data = ListDataset([{"start": "2020-01-01", "target": wave} for wave in waves], freq="D")
    made = getattr(models, estimator)(
        prediction_length=4,
        context_length=12,
        batch_size=8,
        num_batches_per_epoch=8,
        trainer_kwargs={**QUIET, "max_epochs": 2, "callbacks": callbacks, **arguments},
        **hyperparameters,
    )
    predictor = made.train(data, ckpt_path=checkpoint)
    next(iter(predictor.predict(data)))


def deep_ar_of_gluonts(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    small = {"freq": "D", "hidden_size": 8, "num_layers": 2, "lags_seq": [1, 2, 7]}
    _gluonts("DeepAREstimator", callbacks, arguments, checkpoint, **small)


def feed_forward_of_gluonts(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    _gluonts("SimpleFeedForwardEstimator", callbacks, arguments, checkpoint, hidden_dimensions=[16])


# -- what is special about them -----------------------------------------------------------------------------------------

_FORECASTING: dict[str, Any] = {
    "package": "pytorch-forecasting",
    "imports": ("pytorch_forecasting",),
    "conflicts": {"GradientClip": r"gradient_clip_val=0\.1"},
    "trainer": {"gradient_clip_val": None},
    # (the windows that validate are the last ones of the training)
    "true_findings": ("validation data are new",),
}
_NEURALFORECAST: dict[str, Any] = {
    "package": "neuralforecast",
    "imports": ("neuralforecast",),
    "namespace": "pytorch_lightning",
    "hidden": True,
}
_DARTS: dict[str, Any] = {
    "package": "darts",
    "imports": ("darts", "darts.models"),
    "namespace": "pytorch_lightning",
    "hidden": True,
}
_GLUONTS: dict[str, Any] = {
    "package": "gluonts",
    "imports": ("gluonts.torch",),
    "hidden": True,
    "skipped": {"SanityCheck": "generator in progress", "LRFinder": "generator in progress"},
    "conflicts": {
        "GradientClip": r"gradient_clip_val=10\.0",
        "LRSchedule": "the number of updates of this run is not known",
    },
    "trainer": {"gradient_clip_val": None},
    "arguments": {"LRSchedule": {"total": 8}},
    "not_resumed": "IterableSlice is not a DataLoader",
}

STRANGERS = (
    Stranger("pytorch-forecasting TemporalFusionTransformer", temporal_fusion_transformer, **_FORECASTING),
    Stranger("pytorch-forecasting DeepAR", deep_ar_of_pytorch_forecasting, refused=NO_ACTIVATIONS, **_FORECASTING),
    Stranger("neuralforecast NHITS", nhits, **_NEURALFORECAST),
    Stranger("neuralforecast LSTM", lstm_of_neuralforecast, **_NEURALFORECAST),
    Stranger("darts NBEATSModel", nbeats, **_DARTS),
    Stranger("darts RNNModel", rnn_of_darts, refused=NO_ACTIVATIONS, **_DARTS),
    Stranger("gluonts DeepAREstimator", deep_ar_of_gluonts, refused=NO_ACTIVATIONS, **_GLUONTS),
    Stranger("gluonts SimpleFeedForwardEstimator", feed_forward_of_gluonts, refused=NO_ACTIVATIONS, **_GLUONTS),
)
