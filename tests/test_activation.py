from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_tricks_from_environment
from lightning_tricks import GradientMonitor, TrickWarning
from lightning_tricks.activation import callbacks_of
from tests.forked import run_script
from tests.problems import Classifier, Memory, fit, loader, sgd, trainer, weights


def names(callbacks: Any) -> list[str]:
    return [type(c).__name__ for c in callbacks]


@pytest.mark.parametrize(
    ("text", "found", "problem"),
    [
        ("GradientMonitor,PrecisionDoctor", ["GradientMonitor", "PrecisionDoctor"], ""),
        (" GradientClip(rule=0.5, per='layer') ", ["GradientClip"], ""),
        (
            "rnn, GradientMonitor",
            ["GradientMonitor", "GradientClip", "LRSchedule", "TrainingDoctor", "LossScaleGuard"],
            "",
        ),
        ("gan(generator='g')", ["GradientMonitor", "TrainingDoctor", "LossScaleGuard", "ModeCollapse"], ""),
        ("GradientMonitr", [], "Did you mean 'GradientMonitor'"),
        ("GradientMonitr,GradientClip", ["GradientClip"], "Did you mean 'GradientMonitor'"),
        ("GradientClip(rule=-1.0)", [], "max_norm must be > 0"),
        ("GradientClip(rul=1.0)", [], "rul"),
        ("GradientClip(0.5)", ["GradientClip"], ""),
        (
            "GradientClip(AGC(0.02, exclude=['head'])), LRSchedule(Polynomial(power=2.0))",
            ["GradientClip", "LRSchedule"],
            "",
        ),
        ("GradientClip(AGX(0.02))", [], "there is no 'AGX'. Did you mean 'AGC'"),
        ("GradientClip(*[1.0])", [], "cannot be read"),
        ("GradientClip(**{})", [], "cannot be read"),
        ("GradientClip(rule=-x)", [], "cannot be read"),
        ("GradientClip(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)", [], "too many positional"),
        ("GradientClip(rule=__import__('os').getpid())", [], "there is no"),
        ("__import__('os')", [], "there is no '__import__'"),
        ("os.getpid()", [], "cannot be read"),
        ("a b c", [], "cannot be read"),
        ("],[", [], "cannot be read"),
        ("\0", [], "cannot be read"),
        ("1", [], "cannot be read"),
    ],
)
def test_a_text_gives_callbacks_and_problems(text: str, found: list[str], problem: str) -> None:
    callbacks, problems = callbacks_of(text)
    assert names(callbacks) == found
    assert re.search(problem, " ".join(problems)) and bool(problems) is bool(problem)


@pytest.fixture
def variable() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:  # undone before the leak police looks
        yield lambda text: patch.setenv("LIGHTNING_TRICKS", text) if text else patch.delenv("LIGHTNING_TRICKS")


SCRIPT = """
import os, sys, warnings
warnings.filterwarnings("ignore", message=".*LeafSpec|.*many workers|.*logging interval")
import lightning.pytorch as L
from lightning.pytorch.demos.boring_classes import BoringModel
class Model(BoringModel):
    val_dataloader = None
    validation_step = None
for value, folder in ("", "silent"), ("GradientMonitor,PrecisionDoctr", "asked"):
    os.environ["LIGHTNING_TRICKS"] = value
    print("begin of", folder, file=sys.stderr, flush=True)
    t = L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=3, limit_val_batches=0, log_every_n_steps=1,
                  logger=L.loggers.CSVLogger(folder), enable_progress_bar=False, enable_model_summary=False,
                  enable_checkpointing=False)
    t.fit(BoringModel())
    print(folder, "imported", "lightning_tricks" in sys.modules)
    print("|".join(type(c).__name__ for c in t.callbacks))
"""


def test_a_script_without_an_edit_has_them_and_without_the_variable_imports_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    silent, asked = done.stdout.split("asked imported True")
    assert "silent imported False" in silent and "GradientMonitor" not in silent
    assert "GradientMonitor" in asked
    assert "grad/norm" in next((tmp_path / "asked").rglob("metrics.csv")).read_text()
    silent, asked = done.stderr.split("begin of asked")
    assert "TRICKS" not in silent
    said = [line for line in asked.splitlines() if "LIGHTNING_TRICKS" in line]
    assert len(said) == 1 and "Did you mean 'PrecisionDoctor'?" in said[0], done.stderr


@pytest.mark.parametrize("namespace", ["lightning.pytorch", "pytorch_lightning"])
def test_both_namespaces_have_the_entry_point(namespace: str) -> None:
    (entry,) = [e for e in entry_points(group=f"{namespace}.callbacks_factory") if e.name == "lightning_tricks"]
    assert entry.load()() == []


def test_it_never_raises_even_where_warnings_are_errors(variable: Any, monkeypatch: Any, capsys: Any) -> None:
    variable("nonsense(")
    assert lightning_tricks_from_environment.callbacks() == []
    assert "LIGHTNING_TRICKS: 'nonsense(' cannot be read" in capsys.readouterr().err
    monkeypatch.setattr("lightning_tricks.activation.callbacks_of", lambda text: 1 / 0)
    assert lightning_tricks_from_environment.callbacks() == []
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_scripts_own_callback_stays_alone(variable: Any) -> None:
    variable("GradientMonitor")
    memory, own = Memory(), GradientMonitor(per_layer=False)
    module = Classifier()
    t = fit(module, [own], n=32, logger=memory)
    assert names(c for c in t.callbacks if isinstance(c, GradientMonitor)) == ["GradientMonitor"] * 2
    assert all("grad/norm/" not in key for _, row in memory.rows for key in row)
    plain = Classifier()
    variable("")
    fit(plain, [], n=32)
    assert torch.equal(weights(module), weights(plain))


def test_a_run_that_cannot_have_a_trick_goes_on_without_it(variable: Any) -> None:
    variable("GradientMonitor,GradientAccumulation(batches=2),DeadUnits(layers=['nowhere'])")
    memory = Memory()
    with pytest.warns(TrickWarning, match="goes on without") as said:
        t = trainer(logger=memory)
        t.fit(Classifier(lambda p: sgd(p), manual=True), loader(32))
    text = " ".join(str(w.message) for w in said)
    assert "without GradientAccumulation" in text and "without DeadUnits" in text
    assert memory.series("grad/norm")


def test_a_checkpoint_with_and_without_the_variable_resumes(variable: Any, tmp_path: Path) -> None:
    variable("GradientMonitor")
    t = trainer()
    t.fit(Classifier(), loader(32))
    t.save_checkpoint(tmp_path / "a.ckpt")
    t = trainer(max_epochs=2)
    t.fit(Classifier(), loader(32), ckpt_path=tmp_path / "a.ckpt")
    assert t.global_step == 8


@pytest.mark.parametrize("fit_first", [True, False])
def test_one_list_for_two_trainers(variable: Any, fit_first: bool, tmp_path: Path) -> None:
    """Lightning writes what the variable names into the user's own list (2.6.6, ``callback_connector.py``)."""
    import lightning.pytorch as L

    variable("GradientMonitor,GradientClip(rule=0.5)")
    shared: list[Any] = [L.callbacks.LambdaCallback()]
    memories, modules, trainers = [Memory(), Memory()], [Classifier(), Classifier()], []
    options: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False,
                               "enable_model_summary": False, "enable_checkpointing": False, "log_every_n_steps": 1}  # fmt: skip
    for i in (0, 1):
        trainers.append(L.Trainer(callbacks=shared, logger=memories[i], **options))
        if fit_first:
            trainers[i].fit(modules[i], loader(32))
    for i in () if fit_first else (0, 1):
        trainers[i].fit(modules[i], loader(32))
    for i, t in enumerate(trainers):
        monitors = [c for c in t.callbacks if isinstance(c, GradientMonitor) and c.run_or_none is not None]
        assert len([c for c in monitors if c.run.belongs_to(t)]) == 1, "of two that stand in one list, the later acts"
        t.save_checkpoint(tmp_path / f"{i}.ckpt")
        states = torch.load(tmp_path / f"{i}.ckpt", weights_only=True)["callbacks"]
        assert len([key for key in states if "GradientMonitor" in key]) == 1
    assert memories[0].rows == memories[1].rows and memories[0].series("grad/norm")
    assert torch.equal(weights(modules[0]), weights(modules[1]))


def test_the_state_of_a_later_trainer_of_another_process_is_found(variable: Any, tmp_path: Path) -> None:
    variable("GradientClip(rule=0.5)")
    t = trainer()
    t.fit(Classifier(), loader(32))
    later = trainer()  # of this process: the first one's callbacks are the older ones now
    t.save_checkpoint(tmp_path / "a.ckpt")
    assert later is not None
    code = f"""
import warnings; warnings.simplefilter("ignore")
from tests.problems import *
t = trainer(max_epochs=2)
t.fit(Classifier(), loader(32), ckpt_path={str(tmp_path / "a.ckpt")!r})
clip = next(c for c in t.callbacks if type(c).__name__ == "GradientClip")
print("counted", clip.run.clock.applied_on_host(0))
"""
    (tmp_path / "later.py").write_text(code)
    environment = {**os.environ, "LIGHTNING_TRICKS": "GradientClip(rule=0.5)"}
    done = run_script(Path("later.py"), folder=tmp_path, environment=environment)
    assert "counted 8" in done.stdout, done.stderr
