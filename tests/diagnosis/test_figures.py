from __future__ import annotations

import math

from lightning_tricks.diagnosis.figures import draw_training
from lightning_tricks.diagnosis.findings import Finding


def test_the_picture_holds_losses_predictions_and_sizes() -> None:
    history = [
        (
            s,
            {
                "loss": 1.0 / s,
                "fixed_batch_loss": 0.9 / s,
                "first_gradient": 0.1,
                "last_gradient": 1.0,
                "update_ratio": 1e-3,
            },
        )
        for s in (10, 20, 30)
    ]
    history[1][1]["loss"] = math.nan
    predictions = [(10, [1.0, 2.0]), (20, [1.0, 3.0]), (30, [1.0, 3.0])]
    figure = draw_training(history, predictions, [0.5, 0.4], [Finding("plateau", "x", 0.5, "y", 20)])
    losses, said, sizes = figure.axes[:3]
    assert [line.get_label() for line in losses.lines][:3] == ["training", "first batch, eval mode", "validation"]
    assert len(losses.lines[0].get_xdata()) == 2, "NaN is left out"
    assert said.images[0].get_array().shape == (2, 3)
    assert len(sizes.lines) == 3
    assert draw_training([], [], [], []).axes
