from __future__ import annotations

import re
from pathlib import Path

from lightning_tricks.publishing.dashboard import LAYOUT

PACKAGE = Path(__file__).parents[2] / "lightning_tricks"


def charts_of(tag: str) -> list[str]:
    """As TensorBoard's plugin does it: a pattern has to match at the beginning."""
    return [
        f"{section}: {chart}"
        for section, charts in LAYOUT.items()
        for chart, (_, patterns) in charts.items()
        if any(re.match(pattern, tag) for pattern in patterns)  # type: ignore[attr-defined]
    ]


def test_each_key_is_in_its_chart_and_in_no_other() -> None:
    assert charts_of("grad/norm_log10") == charts_of("grad/norm_log10/optimizer1") == ["gradients: global norm, log10"]
    assert charts_of("grad/norm/body.0.weight") == ["gradients: norm of each parameter"]
    assert charts_of("grad/norm") == charts_of("grad/norm/optimizer1") == [], "the log10 of it is shown"
    assert charts_of("schedule/lr") == charts_of("schedule/optimizer1/lr/head") == ["schedule: learning rate"]
    assert charts_of("collapse/dead_units/alarm") == ["collapse: alarms"]
    assert charts_of("collapse/representation_collapse.net/rank_share") == ["collapse: representation"]
    assert charts_of("collapse/usage_collapse.moe.router/usage") == ["collapse: usage of entries"]
    assert charts_of("collapse/posterior_collapse/kl") == ["collapse: posterior"]
    assert charts_of("diagnosis/training_doctor/fixed_batch_loss") == ["diagnosis: loss"]
    assert charts_of("diagnosis/plateau") == ["diagnosis: findings"]
    assert charts_of("train/loss") == []


def test_every_documented_log_key_has_a_chart() -> None:
    keys = set()
    for path in [*PACKAGE.glob("*/callbacks.py"), *PACKAGE.glob("*/callbacks/*.py")]:
        for logs in re.findall(r"Logs:\n(.*?)\n\s*Changes:", path.read_text(), re.S):
            keys |= set(re.findall(r"``((?:grad|schedule|amp|accumulation|trainer)/[\w/<>]+)``", logs))
    keys -= {"grad/norm", "grad/histogram/<parameter>", "grad/layers"}  # a histogram, a picture
    assert len(keys) > 15
    for key in keys:
        assert charts_of(re.sub(r"<\w+>", "some.name", key)), key
