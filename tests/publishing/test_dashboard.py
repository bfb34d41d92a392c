from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_tricks import GradientClip, GradientMonitor, LRSchedule
from lightning_tricks.gradients.keys import CLIP, MONITOR
from lightning_tricks.publishing.dashboard import filled_layout
from lightning_tricks.publishing.log_keys import LogKeys
from tests.problems import WithHyperparameters, fit


def test_only_charts_with_a_value_are_laid_out_and_the_users_loss_is_the_first() -> None:
    layout = filled_layout(LogKeys(MONITOR + CLIP), ["grad/norm_log10", "lr"], ["train/loss", "val/accuracy"])
    assert list(layout) == ["training", "gradients"]
    assert layout["training"] == {"loss": ["Multiline", ["train/loss$"]]}
    assert list(layout["gradients"]) == ["global norm, log10"]


def test_a_key_of_the_user_is_taken_literally() -> None:
    layout = filled_layout(LogKeys(()), [], ["loss (all+aux)"])
    assert layout == {"training": {"loss": ["Multiline", [r"loss\ \(all\+aux\)$"]]}}


def test_without_a_loss_of_the_user_no_chart_is_made_for_it() -> None:
    assert filled_layout(LogKeys(()), ["grad/norm_log10"], ["diagnosis/training_doctor/loss"]) == {}


def fitted(folder: Path, **logger: Any) -> EventAccumulator:
    tricks = [GradientMonitor(), GradientClip(0.5), LRSchedule("cosine")]
    fit(WithHyperparameters(), tricks, logger=TensorBoardLogger(folder, "run", "0", **logger))
    return EventAccumulator(str(folder / "run" / "0"), size_guidance={"tensors": 0}).Reload()


def test_the_last_layout_of_a_run_has_the_charts_that_it_filled(tmp_path: Path) -> None:
    events = fitted(tmp_path)
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    titles = {category.title: [chart.title for chart in category.chart] for category in layout.category}
    assert titles == {
        "training": ["loss"],
        "gradients": ["global norm, log10", "norm of each parameter", "NaN and inf; noise scale", "clipping"],
        "schedule": ["learning rate", "updates"],
    }


def test_hyperparameters_are_the_users_first_and_of_ours_what_differs_from_the_defaults(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = fitted(tmp_path).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    values = {name: value.number_value or value.string_value for name, value in start.hparams.items()}
    assert values == {
        "width": 24,
        "tricks": "GradientMonitor, GradientClip, LRSchedule",
        "GradientClip/rule": "ClipNorm(max_norm=0.5, norm_type=2.0)",
    }


def test_the_page_shows_the_users_hyperparameters_before_ours(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = fitted(tmp_path).summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert [info.name for info in experiment.hparam_infos] == ["width", "tricks", "GradientClip/rule"]


def test_the_metric_of_the_page_is_left_to_the_user(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = fitted(tmp_path, default_hp_metric=False)
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["hp_metric"]
    assert "hp_metric" not in events.Tags()["scalars"], "no value is made up"
