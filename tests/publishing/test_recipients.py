from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_tricks import GradientClip, GradientMonitor, LRSchedule
from lightning_tricks.gradients.keys import CLIP, MONITOR
from lightning_tricks.publishing.log_keys import LogKeys
from lightning_tricks.publishing.recipients import Recipients, filled_layout
from tests.problems import Classifier, Memory, WithHyperparameters, fit, weights


class Full(Memory):
    """A logger on a full disk."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(key.startswith("grad/") for key in metrics):
            raise OSError(28, "No space left on device")
        super().log_metrics(metrics, step)


def test_a_logger_that_fails_costs_one_warning_and_not_the_training() -> None:
    good, module, alone = Memory(), Classifier(), Classifier()
    with pytest.warns(RuntimeWarning, match=r"Full failed at step 0 \(OSError: .*No space left") as caught:
        fit(module, [GradientMonitor()], logger=[Full(), good])
    assert len([w for w in caught if "Full failed" in str(w.message)]) == 1
    fit(alone)
    assert torch.equal(weights(module), weights(alone))
    assert len(good.series("grad/norm")) == 12


def test_a_figure_goes_to_loggers_that_draw_and_a_failing_one_is_told_once() -> None:
    drawn: list[Any] = []

    class Draws(Memory):
        class experiment:
            add_figure = staticmethod(lambda name, figure, step: drawn.append((name, figure, step)))

    class Breaks(Memory):
        class experiment:
            @staticmethod
            def add_figure(name: str, figure: Any, step: int) -> None:
                raise OSError("disk full")

    recipients = Recipients(lambda: loggers)
    loggers = [Memory(), Breaks(), Draws()]
    with pytest.warns(RuntimeWarning, match="Breaks failed at step 3 .*disk full"):
        recipients.give("figure", 3, "picture", lambda: "figure")
    recipients.give("figure", 4, "picture", lambda: "figure")
    assert drawn == [("picture", "figure", 3), ("picture", "figure", 4)]

    def missing() -> None:
        raise ImportError("no matplotlib")

    recipients.give("figure", 5, "picture", missing)
    assert len(drawn) == 2


def test_a_rank_that_does_not_log_is_not_told_of_a_failure(recwarn: pytest.WarningsRecorder) -> None:
    from lightning.fabric.loggers.logger import _DummyExperiment

    class OfAnotherRank(Memory):
        @property
        def experiment(self) -> Any:
            return _DummyExperiment()

    recipients = Recipients(lambda: [OfAnotherRank()])
    recipients.introduce({"a": 1})
    recipients.give("text", 0, "name", lambda: "text")
    recipients.give("figure", 0, "name", lambda: pytest.fail("drawn for nobody"))
    assert not recwarn


def test_a_logger_that_refuses_values_gets_no_more_and_one_without_space_is_tried_again() -> None:
    class Refuses(Memory):
        error: Exception = ValueError("not a name")
        tried = 0

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.tried += 1
            raise self.error

    class NoSpace(Refuses):
        error = OSError(28, "No space left on device")

    refuses, no_space, works = Refuses(), NoSpace(), Memory()
    recipients = Recipients(lambda: [refuses, no_space, works])
    with pytest.warns(RuntimeWarning) as caught:
        for step in range(3):
            recipients.log({"a": 1.0}, {}, step)
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert "Refuses failed at step 0 (ValueError: not a name). lightning_tricks logs no more to it" in told[0]
    assert "NoSpace failed at step 0" in told[1] and "Each value is tried, and may be lost" in told[1]
    assert (refuses.tried, no_space.tried, len(works.rows)) == (1, 3, 3)


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
