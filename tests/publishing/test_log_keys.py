from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_tricks.publishing.log_keys import EventKind, LogKey, LogKeys
from lightning_tricks.report.all_keys import ALL_KEYS

PACKAGE = Path(__file__).parents[2] / "lightning_tricks"


def charts_of(tag: str) -> list[str]:
    """As TensorBoard's plugin does it: a pattern has to match at the beginning."""
    return [
        f"{section}: {chart}"
        for section, charts in ALL_KEYS.layout().items()
        for chart, (_, patterns) in charts.items()
        if any(re.match(pattern, tag) for pattern in patterns)  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize(
    ("name", "fits", "does_not"),
    [
        ("a/b", ["a/b"], ["a/b/c", "xa/b", "a-b"]),
        ("a/<x>", ["a/b", "a/b.c"], ["a/b/c", "a/", "a/optimizer1"]),
        ("a/<x...>", ["a/b", "a/b/c.d"], ["a/", "a/optimizer1"]),
        ("a/d<.label>/x", ["a/d/x", "a/d.net.1/x"], ["a/d2/x", "a/d./x", "a/d.n/y"]),
        ("a</optimizer>/lr", ["a/lr", "a/optimizer3/lr"], ["a/optimizer/lr", "a/lr/optimizer1"]),
    ],
)
def test_a_name_stands_for_the_keys_of_its_family(name: str, fits: list[str], does_not: list[str]) -> None:
    pattern = LogKey(name, "").pattern
    assert all(pattern.match(key) for key in fits) and not any(pattern.match(key) for key in does_not)


def test_keys_of_several_optimizers_belong_to_the_one_that_is_declared() -> None:
    key = LogKey("grad/norm", "", optimizers=True)
    assert key.pattern.match("grad/norm") and key.pattern.match("grad/norm/optimizer12")
    assert not key.pattern.match("grad/norm/optimizer") and not LogKey("grad/norm", "").pattern.match(
        "grad/norm/optimizer1"
    )


@pytest.mark.parametrize(
    ("occurs", "values", "expected"),
    [
        ("below 1", [1.0, 0.5, float("nan")], [False, True, False]),
        ("above 0", [0.0, 2.0, 2.0], [False, True, True]),
        ("grows", [0.0, 2.0, 2.0, 3.0], [False, True, False, True]),
        ("rises above 0", [1.0, 1.0, 0.0, 1.0], [True, False, False, True]),
    ],
)
def test_an_event_occurs_as_its_kind_says(occurs: str, values: list[float], expected: list[bool]) -> None:
    kind = EventKind("x", occurs, "{increase:.0f} of {value:.0f} in {key}")  # type: ignore[arg-type]
    assert [kind.happened(b, v) for b, v in zip([0.0, *values], values, strict=False)] == expected
    assert kind.in_words("a/some_part/alarm", 1.0, 3.0) == "2 of 3 in some part"


def test_the_first_declaration_that_fits_is_meant() -> None:
    one, family = LogKey("a/b", "one"), LogKey("a/<x>", "family")
    assert [LogKeys((one, family)).of(k) for k in ("a/b", "a/c", "b")] == [one, family, None]


def test_only_declared_keys_have_charts() -> None:
    assert LogKeys(()).layout() == {}
    made = LogKeys((LogKey("a/b", "", ("s", "t")), LogKey("a/c", "", ("s", "t")), LogKey("a/d", ""))).layout()
    assert list(made) == ["s"] and made["s"] == {"t": ["Multiline", ["a/b$", "a/c$"]]}


def test_each_key_is_in_its_chart_and_in_no_other() -> None:
    assert charts_of("grad/norm_log10") == charts_of("grad/norm_log10/optimizer1") == ["gradients: global norm, log10"]
    assert charts_of("grad/norm/body.0.weight") == ["gradients: norm of each parameter"]
    assert charts_of("grad/norm") == charts_of("grad/norm/optimizer1") == [], "the log10 of it is shown"
    assert charts_of("schedule/lr") == charts_of("schedule/optimizer1/lr/head") == ["schedule: learning rate"]
    assert charts_of("collapse/representation_collapse.net/rank_share") == ["collapse: representation"]
    assert charts_of("collapse/usage_collapse.moe.router/usage") == ["collapse: usage of entries"]
    assert charts_of("collapse/posterior_collapse/kl") == ["collapse: posterior"]
    assert charts_of("diagnosis/training_doctor/fixed_batch_loss") == ["diagnosis: loss"]
    assert charts_of("diagnosis/plateau") == ["diagnosis: findings"]
    assert charts_of("train/loss") == []
    assert charts_of("collapse/dead_units/alarm") == ["collapse: alarms"]


def test_every_documented_log_key_is_declared_and_has_a_chart() -> None:
    keys = set()
    for path in [*PACKAGE.glob("*/callbacks.py"), *PACKAGE.glob("*/callbacks/*.py")]:
        for logs in re.findall(r"Logs:\n(.*?)\n\s*Changes:", path.read_text(), re.S):
            keys |= set(re.findall(r"``((?:grad|schedule|amp|accumulation|trainer)/[\w/<>]+)``", logs))
    keys -= {"grad/norm", "grad/histogram/<parameter>", "grad/layers"}  # a histogram, a picture
    assert len(keys) > 15
    for key in keys:
        assert charts_of(re.sub(r"<\w+>", "some.name", key)), key
