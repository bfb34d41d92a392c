from __future__ import annotations

import pytest
import torch

from lightning_tricks import TrickError
from lightning_tricks.gradients.parts import Parts, claimed, named_parts, place
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


def two_views() -> list[OptimizerView]:
    views = []
    for i, names in enumerate((["g.w", "g.b"], ["d.w"])):
        named = {id(p := torch.nn.Parameter(torch.zeros(1))): (n, p) for n in names}
        optimizer = torch.optim.SGD([p for _, p in named.values()], lr=1.0)
        views.append(OptimizerView(i, optimizer, {key: n for key, (n, _) in named.items()}, LossScale(None)))
    return views


def test_groups_are_measured_where_they_have_a_parameter() -> None:
    found = named_parts(two_views(), {"weights": r"g\.w"}, owner="GradientMonitor", strict=True)
    assert {index: parts.names for index, parts in found.items()} == {0: ("weights", "rest")}
    assert named_parts(two_views(), None, owner="GradientMonitor", strict=True) == {}


def test_groups_pick_the_optimizers_to_clip() -> None:
    views = two_views()
    assert claimed(views, None, "model") == views
    assert claimed(views, {"x": r"^d\."}, "model") == views[1:]
    assert claimed(views, {"x": r"g\.w"}, "group") == views[:1]
    with pytest.raises(TrickError, match=r"'g.b' of optimizer 0 is in no group"):
        claimed(views, {"x": r"g\.w"}, "model")
