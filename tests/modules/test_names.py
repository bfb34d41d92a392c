from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_tricks import TrickError
from lightning_tricks.modules.names import in_compiled_graphs, matching_modules, plain_modules


def test_a_pattern_without_a_match_names_the_nearest() -> None:
    net = nn.ModuleDict({"encoder": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    known = plain_modules(net)
    assert matching_modules(known, ["*e*"], owner="FP32Islands") == ["encoder", "head"]
    with pytest.raises(TrickError, match="The nearest name is 'encoder'"):
        matching_modules(known, ["head", "encodr"], owner="FP32Islands")
    with pytest.raises(TrickError, match="has no submodules"):
        matching_modules({"": nn.ReLU()}, ["x"], owner="FP32Islands")


def test_compiled_parts_are_known() -> None:
    inner = nn.Sequential(nn.Linear(1, 1))
    net = nn.ModuleDict({"plain": nn.Linear(1, 1), "wrapped": torch.compile(inner, backend="eager")})
    hidden = in_compiled_graphs(net)
    known = plain_modules(net)
    assert {n for n, m in known.items() if id(m) in hidden} == {"wrapped.0"}
    inner_too = nn.ModuleDict({"a": nn.Sequential(nn.ReLU())})
    inner_too["a"].compile(backend="eager")
    assert {n for n, m in plain_modules(inner_too).items() if id(m) in in_compiled_graphs(inner_too)} == {"a", "a.0"}
