from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_tricks import GradientMonitor, TrickError
from lightning_tricks.modules.selection import assign, check_patterns, matching, parameter_names, plain_name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_are_those_of_the_uncompiled_model() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    compiled = torch.compile(model)
    assert set(parameter_names(compiled).values()) == {"0.weight", "0.bias"}
    assert plain_name("_orig_mod.a._orig_mod.b") == "a.b"
    assert plain_name("model._forward_module.x") == "model.x"


def test_groups_are_assigned_in_their_order() -> None:
    assert assign(["a.w", "b.w", "c.w"], {"last": "^c", "first": "^a"}, owner="X") == [1, -1, 0]


@pytest.mark.parametrize(
    ("groups", "error", "text"),
    [([], TypeError, "dict of str to str"), ({"a": 1}, TypeError, "dict of str to str"), ({}, ValueError, "at least one"),
     ({"": "x"}, ValueError, "at least one"), ({"a": "("}, ValueError, "not a regular expression")],
)  # fmt: skip
def test_groups_of_a_wrong_form_are_refused(groups: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check_patterns("X", groups)
    with pytest.raises(error, match=r"GradientMonitor\(groups="):
        GradientMonitor(groups=groups)


def test_a_pattern_without_a_match_shows_the_nearest_name() -> None:
    with pytest.raises(
        TrickError, match=r"X\(y='\^haed'\): the pattern matches no parameter\. The nearest name is 'head'"
    ):
        matching(["body", "head"], "^haed", owner="X", argument="y")
    with pytest.raises(TrickError, match="has no parameters"):
        matching([], "a", owner="X", argument="y")


def test_groups_that_share_a_parameter_are_refused() -> None:
    with pytest.raises(TrickError, match="'a.w' is in 'one' and in 'two'"):
        assign(["a.w"], {"one": "a", "two": "w"}, owner="X")
    assert assign(["a.w"], {"one": "b"}, owner="X", strict=False) == [-1]


def test_the_module_inside_a_compiled_wrapper_has_the_wrappers_name() -> None:
    assert plain_name("net._orig_mod") == "net"
