"""What the command prints about names."""

from __future__ import annotations

from typing import Any

import pytest

import lightning_tricks as lt
import lightning_tricks.cli as cli
from lightning_tricks import decays, metrics
from lightning_tricks.name_pages import explanation, listing
from lightning_tricks.recipe_choices import tricks
from lightning_tricks.recipes import KINDS
from lightning_tricks.report.all_keys import ALL_KEYS


def test_the_list_has_every_public_name_once_under_its_kind() -> None:
    text = listing()
    names = {*lt.__all__, *decays.__all__, *metrics.__all__, *KINDS}
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert sorted(shown) == sorted(names)
    callbacks = text.split("callbacks\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in callbacks.splitlines()] == sorted(tricks())
    assert "``" not in text


@pytest.mark.parametrize("name", sorted({*lt.__all__, *decays.__all__, *metrics.__all__, *KINDS}))
def test_every_name_is_explained_by_its_docstring(name: str) -> None:
    text = explanation(name)
    assert text.splitlines()[0].startswith((name, f"recipe('{name}')")) and len(text) > len(name) + 20


def test_every_log_key_is_explained_with_who_logs_it() -> None:
    for key in ALL_KEYS.keys:
        if "<" not in key.name:
            assert key.meaning in explanation(key.name)
    assert explanation("grad/norm").endswith("Logged by GradientMonitor.")
    assert explanation("diagnosis/overfitting").endswith("Logged by MemoryDoctor, TrainingDoctor.")
    assert "Logged by" not in explanation("trainer/updates")


@pytest.mark.parametrize("given", ["lightning_tricks.GradientClip", "lt.GradientClip", " GradientClip "])
def test_a_name_may_be_written_as_in_code(given: str) -> None:
    assert explanation(given).startswith("GradientClip(rule=1.0, per='model'")


def test_the_command_prints_them_and_names_the_nearest(capsys: Any) -> None:
    assert cli.main(["list"]) == 0
    assert "lightning-tricks explain NAME says more." in capsys.readouterr().out
    assert cli.main(["explain", "GradientClip", "cnn"]) == 0
    assert "recipe('cnn')" in capsys.readouterr().out
    assert cli.main(["explain", "gradientclip"]) == 2
    assert capsys.readouterr().out == "explain gradientclip: there is no such name. Did you mean 'GradientClip'?\n"
    with pytest.raises(ValueError, match="lightning-tricks list shows all"):
        explanation("qqqqqqqqqqq")
