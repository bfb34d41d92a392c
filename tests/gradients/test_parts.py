from __future__ import annotations

import pytest
import torch

from lightning_tricks import TrickError
from lightning_tricks.gradients.parts import Parts, place
from lightning_tricks.optimizer_step.logbook import OptimizerView
from lightning_tricks.optimizer_step.loss_scale import LossScale

NORMS = torch.tensor([3.0, 4.0, 12.0])


def test_the_model_is_one_part_of_no_dimension() -> None:
    parts = Parts.of_model(3)
    assert parts.whole
    assert float(parts.norms(NORMS, 2.0)) == 13.0
    assert parts.norms(NORMS, 2.0).ndim == 0


def test_layers_are_parts_of_their_own() -> None:
    parts = Parts.of_layers(["a", "b", "c"])
    assert not parts.whole
    assert parts.norms(NORMS, 2.0).tolist() == [3.0, 4.0, 12.0]
    assert parts.spread(torch.tensor([1.0, 0.5, 0.25])).tolist() == [1.0, 0.5, 0.25]


def test_named_groups_leave_out_those_without_a_parameter_and_keep_the_rest() -> None:
    parts = Parts.of_named({"x": "", "y": "", "z": ""}, [2, -1, 0], torch.device("cpu"), rest=True)
    assert parts.names == ("x", "z", "rest")
    assert parts.norms(NORMS, 1.0).tolist() == [12.0, 3.0, 4.0]
    assert parts.spread(torch.tensor([0.1, 0.2, 0.3])).tolist() == pytest.approx([0.2, 0.3, 0.1])


def test_a_pattern_need_match_in_one_optimizer_only() -> None:
    views = []
    for i, name in enumerate(("generator.w", "discriminator.w")):
        p = torch.nn.Parameter(torch.zeros(1))
        views.append(OptimizerView(i, torch.optim.SGD([p], lr=1.0), {id(p): name}, LossScale(None)))
    assert place(views, {"g": "^generator"}, owner="X") == {0: [0], 1: [-1]}
    with pytest.raises(TrickError, match="matches no parameter"):
        place(views[1:], {"g": "^generator"}, owner="X")
