from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.examples.problems import ROOT, run
from tests.forked import run_script

pytestmark = pytest.mark.examples


def test_the_finders_example_finds_a_better_rate(tmp_path: Path) -> None:
    printed = run("lr_finder", tmp_path, "--epochs", "3")
    found = re.search(r"accuracy with 0.0001: ([\d.]+)%; with the rate found: ([\d.]+)%", printed)
    assert found is not None, printed
    assert float(found[2]) > max(80.0, float(found[1]))
    assert (tmp_path / "runs" / "lr_finder.png").stat().st_size > 10_000


def test_one_damaged_image_loses_lightnings_run_and_not_ours(tmp_path: Path) -> None:
    printed = run("before_and_after", tmp_path)
    alone, ours = (
        (float(accuracy), int(lost))
        for accuracy, lost in re.findall(r"accuracy ([\d.]+)%, NaN in (\d+) of 264 losses", printed)
    )
    assert alone[0] < 15 and alone[1] > 200
    assert ours[0] > 90 and ours[1] == 12, "one batch of each epoch holds the damaged image"
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    for accuracy in (alone[0], ours[0]):
        assert f"accuracy {accuracy:.0f} %" in shown.replace("\n", " ")
    assert (tmp_path / "runs" / "before_and_after.png").stat().st_size > 10_000


def test_the_large_batchs_gradient_is_had_in_every_way_but_lightnings(tmp_path: Path) -> None:
    printed = run("large_batch_on_small_memory", tmp_path)
    errors = [float(x) for x in re.findall(r"\d\.\de[-+]\d\d", printed)]
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    assert errors[0] > 0.1 and f"{errors[0]:.0%} with Lightning".replace("%", " %") in shown
    assert "below 1e-6 with `GradientAccumulation(10)`" in shown
    assert len(errors) == 5 and max(errors[1:]) <= 1e-6
    assert (tmp_path / "runs" / "large_batch.png").stat().st_size > 10_000


def test_the_gallery_draws_every_shape(tmp_path: Path) -> None:
    run("schedules_gallery", tmp_path)
    assert (tmp_path / "runs" / "schedules.png").stat().st_size > 50_000


def test_float16_fails_in_silence_in_lightning_and_is_explained_and_rescued_here(tmp_path: Path) -> None:
    printed = run("mixed_precision", tmp_path, "--epochs", "2")
    rows = dict(re.findall(r"│ (\S.*?) +│ +[\d.]+% +│ (\d+) +│", printed))
    assert rows["Lightning alone"] == rows["LossScaleGuard, PrecisionDoctor"] == "0"
    assert int(rows["and FP32Islands(['auto'])"]) > 40
    assert int(rows["LossScaleGuard(on_failure='bf16')"]) > 20
    assert "21 attempts in a row were skipped" in printed
    assert "forward overflow in energy" in printed.replace("\n", " ") or "islands: energy" in printed
    assert (tmp_path / "runs" / "mixed_precision.png").stat().st_size > 10_000


def test_advice_is_given_for_a_model_of_ones_own_and_a_wrong_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(64, 8), (torch.randn(32, 64), torch.randint(8, (32,)))\n"
    )
    printed = run("advise_precision", tmp_path, "--model", "mine:make", "--seconds", "0.3")
    assert "bf16-mixed" in printed
    assert "Trainer(precision=" in printed
    assert (tmp_path / "runs" / "advise_precision.png").stat().st_size > 5_000
    wrong = ("--model", "nothing:make")
    path = Path("examples/advise_precision.py")
    done = run_script(path, *wrong, folder=tmp_path, environment={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode != 0
    assert "Use package.module:function" in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 120


def test_pictures_are_legible_on_a_telephone() -> None:
    files = [*(ROOT / "examples").glob("*.py"), *(ROOT / "lightning_tricks").rglob("figures.py")]
    widths = {
        str(p): w for p in files for w in re.findall(r"figsize=\((\d+(?:\.\d+)?),", p.read_text(encoding="utf-8"))
    }
    # (400 pixels wide, letters of 10 points are then 10 pixels high)
    assert len(widths) > 15 and {name: w for name, w in widths.items() if float(w) > 5.4} == {}


def test_a_collapse_of_embeddings_is_noticed_and_a_healthy_run_left_alone(tmp_path: Path) -> None:
    printed = run("simsiam_collapse", tmp_path, "--epochs", "18")
    healthy, collapsed = printed.split("without stop-gradient")
    assert "RepresentationCollapse: no alarm" in healthy
    assert "dimensional collapse since step" in collapsed
    assert (tmp_path / "runs" / "simsiam_collapse.png").stat().st_size > 10_000


def test_lost_modes_are_noticed(tmp_path: Path) -> None:
    printed = run("gan_mode_collapse", tmp_path, "--steps", "400")
    assert re.search(r"8e-3, no penalty: ModeCollapse: mode collapse since step", printed), printed
    assert "R1 penalty: ModeCollapse: no alarm" in printed
    assert (tmp_path / "runs" / "gan_mode_collapse.png").stat().st_size > 10_000


def test_a_collapsed_tagger_is_rescued(tmp_path: Path) -> None:
    printed = run("token_classifier_collapse", tmp_path, "--updates", "300")
    left, rescued = (float(x) for x in re.findall(r"macro-F1 ([\d.]+)", printed))
    assert left < 0.3
    assert re.search(
        r"left alone: macro-F1 [\d.]+; ALARM at step \d+: PredictionCollapse: prediction collapse", printed
    )
    assert rescued > left + 0.2
    assert (tmp_path / "runs" / "token_classifier_collapse.png").stat().st_size > 10_000


def test_own_text_alone_collapses_and_real_text_in_the_mix_prevents_it(tmp_path: Path) -> None:
    printed = run("recursive_training", tmp_path, "--generations", "9", "--updates", "40")
    assert "replace: GenerationDrift: recursive collapse" in printed
    assert "fraction: GenerationDrift: no alarm" in printed
    assert (tmp_path / "runs" / "recursive_training.png").stat().st_size > 10_000


def test_every_mistake_is_found_before_the_first_step(tmp_path: Path) -> None:
    printed = run("sanity_check", tmp_path)
    parts = printed.split("mistake: ")[1:]
    failed = [part.count("FAIL") for part in parts]
    assert failed[0] == 0
    assert all(failed[1:])
    assert (tmp_path / "runs" / "sanity_check.png").stat().st_size > 10_000
