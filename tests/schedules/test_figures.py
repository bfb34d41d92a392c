from __future__ import annotations

import sys
from typing import Any

import pytest

from lightning_tricks import LRSchedule
from lightning_tricks.decays import Join, Noam, Phase, Plateau, Step


def test_the_plot_shows_the_curve() -> None:
    figure = LRSchedule(warmup=5, hold=5).plot(50, base_lr=0.3)
    axes = figure.axes[0]
    drawn = axes.lines[0].get_ydata()
    assert list(drawn) == pytest.approx([0.3 * v for v in LRSchedule(warmup=5, hold=5).values(50)])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["learning rate", "warm-up", "hold", "decay"]


def test_the_plot_shows_momentum_and_weight_decay_where_they_are_scheduled() -> None:
    schedule = LRSchedule("linear", warmup=5, momentum=(0.95, 0.85), weight_decay_final=0.4)
    rate, momentum, decay = schedule.plot(50, weight_decay=0.04).axes
    height = LRSchedule("linear", warmup=5).values(50)
    assert list(rate.lines[0].get_ydata()) == pytest.approx(height)
    assert list(momentum.lines[0].get_ydata()) == pytest.approx([0.95 - 0.1 * h for h in height])
    assert decay.lines[0].get_ydata()[0] == pytest.approx(0.04)
    assert decay.lines[0].get_ydata()[25] == pytest.approx(0.22)


def test_without_a_number_of_updates_the_plot_is_drawn_over_shares_of_the_run() -> None:
    schedule = LRSchedule("linear", warmup="10%", hold="20%", momentum=(0.95, 0.85))
    rate, momentum = schedule.plot(base_lr=0.3).axes
    assert list(rate.lines[0].get_ydata())[::100] == pytest.approx([0.3 * v for v in schedule.values(1000)[::100]])
    assert rate.lines[0].get_ydata()[650] == pytest.approx(0.15), "half of what is left after warm-up and hold"
    assert momentum.get_xlabel() == "share of the run (%)"
    ticks = dict(zip((t.get_text() for t in momentum.get_xticklabels()), momentum.get_xticks(), strict=True))
    assert ticks == {"0": 0, "20": 200, "40": 400, "60": 600, "80": 800, "100": 1000}


def test_without_a_number_of_updates_the_plot_takes_that_of_the_schedule() -> None:
    axes = LRSchedule("linear", warmup=4, total=20).plot().axes[0]
    assert list(axes.lines[0].get_ydata()) == LRSchedule("linear", warmup=4).values(20)
    assert axes.get_xlabel() == "update"
    in_epochs = LRSchedule("linear", total="5ep").plot().axes[0]
    assert in_epochs.get_xlabel() == "share of the run (%)"


@pytest.mark.parametrize("more", [{"warmup": 500}, {"hold": "1ep"}, {"decay": Step(30)}, {"decay": Noam(100)}], ids=str)
def test_a_curve_that_depends_on_a_number_of_updates_is_not_drawn_without_it(more: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"^LRSchedule\.plot\(total=None\): .* Pass it, e\.g\. plot\(total=10_000\)\.$"
    ):
        LRSchedule(**more).plot()
    assert LRSchedule(**{**more, "hold": 0}).plot(1000).axes


def test_a_plateau_is_not_drawn_before_training_with_or_without_a_number_of_updates() -> None:
    for total in (None, 100):
        with pytest.raises(ValueError, match="the metric 'val_loss' decides while training"):
            LRSchedule(Plateau("val_loss")).plot(total)


def test_joined_phases_are_marked_each() -> None:
    join = Join([Phase("linear", "10%", start=0.0, end=1.0), Phase("constant", "50%"), Phase("cosine")])
    axes = LRSchedule(join).plot(50).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["learning rate", "phase 1: Linear", "phase 2: Constant", "phase 3: Cosine"]
    spans = [patch.get_path().transformed(patch.get_patch_transform()).get_extents() for patch in axes.patches]
    assert [x for span in spans for x in (span.x0, span.width)] == pytest.approx([0, 5, 5, 25, 30, 20])


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lightning_tricks.publishing.inline_figure", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-tricks\[demo\]'"):
        LRSchedule().plot(10)
