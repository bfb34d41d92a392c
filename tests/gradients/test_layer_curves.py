from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_tricks import GradientMonitor
from tests.problems import Classifier, Memory, fit, loader, trainer


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 24), *(nn.Linear(24, 24) for _ in range(6)), nn.Linear(24, 10))


def layers(memory: Memory, kind: str = "norm") -> set[str]:
    return {k.removeprefix(f"grad/{kind}/") for _, row in memory.rows for k in row if k.startswith(f"grad/{kind}/")}


def test_by_default_the_five_largest_norms_have_curves_with_the_values_of_all(tmp_path: Path) -> None:
    some, every = Memory(), Memory()
    fit(Classifier(net=deep()), [GradientMonitor()], logger=some)
    fit(Classifier(net=deep()), [GradientMonitor(per_layer=True)], logger=every)
    first = {name: every.series(f"grad/norm/{name}")[0] for name in layers(every)}
    assert len(first) == 16
    largest = sorted(first, key=first.__getitem__)[-5:]
    assert set(largest) <= layers(some) and len(layers(some)) <= 7
    for name in largest:
        shown = some.series(f"grad/norm/{name}")
        assert shown == {step: every.series(f"grad/norm/{name}")[step] for step in shown}


@pytest.mark.parametrize("per_layer", ["top", True, False])
def test_update_ratios_follow_the_norms(per_layer: Any) -> None:
    memory = Memory()
    fit(Classifier(net=deep()), [GradientMonitor(per_layer=per_layer, update_ratio=True)], n=16, logger=memory)
    assert len(layers(memory, "update_ratio")) == (16 if per_layer is True else 5)
    assert len(layers(memory)) == {"top": 5, True: 16, False: 0}[per_layer]
    if per_layer == "top":
        assert layers(memory) == layers(memory, "update_ratio")


def test_the_heat_map_has_every_parameter_also_where_five_have_curves() -> None:
    monitor = GradientMonitor()
    fit(Classifier(net=deep()), [monitor])
    assert len(monitor.plot().axes[0].images[0].get_array()) == 16


def test_curves_keep_their_names_over_a_resume_and_old_states_load(tmp_path: Path) -> None:
    def part(epochs: int, path: Path | None = None) -> tuple[Memory, GradientMonitor]:
        memory, monitor = Memory(), GradientMonitor()
        t = trainer([monitor], logger=memory, max_epochs=epochs)
        t.fit(Classifier(net=deep()), loader(), ckpt_path=path)
        t.save_checkpoint(tmp_path / "a.ckpt")
        return memory, monitor

    part(1)
    (resumed, monitor), (whole, _) = part(2, tmp_path / "a.ckpt"), part(2)
    assert resumed.series("grad/norm")[23] == whole.series("grad/norm")[23]
    tail = [row for row in whole.rows if row[0] >= 12]
    assert [set(row) for _, row in resumed.rows] == [set(row) for _, row in tail]
    old = monitor.state_dict()
    del old["state"]["layers"]
    fresh = GradientMonitor()
    fresh.load_state_dict(old)
    fit(Classifier(net=deep()), [fresh], n=8)


def test_a_damaged_choice_in_a_checkpoint_is_refused_by_name() -> None:
    monitor = GradientMonitor()
    fit(Classifier(), [monitor], n=8)
    state = monitor.state_dict()
    state["state"]["layers"]["0"]["means"] = {"net.0.weight": "large"}
    with pytest.raises(ValueError, match="means"):
        GradientMonitor().load_state_dict(state)
