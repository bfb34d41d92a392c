from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ttest_rel
from torch.utils.data import TensorDataset

from benchmarks import claims, tricks
from benchmarks.models import studies
from benchmarks.models.studies import STUDIES, Setting, Split, Study, images, noisy, patients
from benchmarks.results import FOLDER
from tests.legible import faults


def test_the_quick_form_runs_every_arm_and_writes_all_files(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "t.json"
    assert (
        tricks.main(["--quick", "--workers", "1", "--studies", "one_cycle", "early_stopping", "--output", str(path)])
        == 0
    )
    result = json.loads(path.read_text())
    assert result["quick"] and result["seeds"] == 2
    assert [s["name"] for s in result["studies"]] == ["one_cycle", "early_stopping"]
    assert path.with_suffix(".md").read_text() == tricks.markdown(result)
    assert path.with_suffix(".png").stat().st_size > 10_000
    assert "one-cycle against step decay" in capsys.readouterr().out


def made_up(values: dict[str, list[float]], higher: bool = True) -> dict[str, Any]:
    study = Study("s", "q", "l", "d", {name: lambda seed, setting: {} for name in values}, "test", higher)
    return tricks.summary(study, {name: [{"test": v} for v in vs] for name, vs in values.items()})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("tricks-*.json")), ids=lambda path: path.stem)
def test_the_picture_of_a_result_can_be_read_at_400_pixels(path: Path) -> None:
    result = json.loads(path.read_text())
    figure = tricks.draw(result)
    assert faults(figure) == []
    arms = [arm for s in result["studies"] for arm, found in s["arms"].items() if found["difference"] is not None]
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels if label.get_fontweight() == "normal"] == arms
    headings = [label.get_text() for label in labels if label.get_fontweight() == "bold"]
    assert headings == [s["name"].replace("_", " ") for s in result["studies"]]


def test_an_arm_without_an_interval_is_not_drawn() -> None:
    study = made_up({"base": [0.5, 0.6], "other": [0.7, 0.9], "alike": [0.6, 0.6]})
    study["arms"]["alike"]["difference"] = [0.1, -math.inf, math.inf]
    labels = tricks.draw({"studies": [study]}).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["s", "other"]
    study["arms"]["other"]["difference"] = None
    assert tricks.draw({"studies": [study]}).axes[0].get_yticklabels() == []


def test_differences_are_paired_and_their_interval_is_students() -> None:
    base, other = [0.5, 0.6, 0.9, 0.4], [0.52, 0.63, 0.91, 0.44]
    found = made_up({"base": base, "other": other})
    reference = ttest_rel(other, base).confidence_interval(0.95)
    assert found["arms"]["other"]["difference"][1:] == pytest.approx([reference.low, reference.high])
    assert tricks.verdict(found, "base") == "baseline" and tricks.verdict(found, "other") == "better"
    assert tricks.verdict(made_up({"base": base, "other": other}, higher=False), "other") == "worse"
    assert tricks.verdict(made_up({"base": base, "other": [0.4, 0.7, 0.8, 0.5]}), "other") == "no claim"
    assert tricks.interval([1.0]) == [1.0, -math.inf, math.inf]


def test_arms_are_compared_with_the_baseline_that_the_study_names() -> None:
    for study in STUDIES:
        assert {study.baseline(arm) for arm in study.arms} <= {None, *study.arms}, study.name
        assert all(study.baseline(arm) != arm for arm in study.arms), study.name
        assert study.baseline(next(iter(study.arms))) is None
    warmup = next(s for s in STUDIES if s.name == "warmup")
    assert warmup.baseline("rate 0.001, warm-up 20 %") == "rate 0.001, none"


def test_the_issues_tricks_are_all_there() -> None:
    wanted = {"one_cycle", "regularisation", "momentum", "optimizers", "label_smoothing", "normalisation", "warmup"}
    wanted |= {
        "clipping",
        "initialisation",
        "batch_scaling",
        "accumulation",
        "imbalance",
        "early_stopping",
        "weight_averaging",
    }
    assert {s.name for s in STUDIES} == wanted


def test_data_are_split_by_seed_without_overlap_and_equal_for_all_arms() -> None:
    split, again, other = images(3, Setting()), images(3, Setting()), images(4, Setting())
    assert torch.equal(split.train.tensors[0], again.train.tensors[0])
    assert not torch.equal(split.train.tensors[0], other.train.tensors[0])
    assert len(split.train) == 1200 and len(split.test) == 597
    assert len(images(3, Setting(), count=200).train) == 200
    both = torch.cat([split.train.tensors[0], split.test.tensors[0]]).flatten(1)
    assert len(torch.unique(both, dim=0)) == len(torch.unique(torch.cat([both, both]), dim=0))


def test_labels_are_spoilt_in_training_data_only() -> None:
    split = images(0, Setting())
    spoilt = noisy(split, 0.3, 0)
    changed = float((spoilt.train.tensors[1] != split.train.tensors[1]).float().mean())
    assert 0.22 < changed < 0.32, "a tenth of the random labels are right"
    assert spoilt.test is split.test


def test_the_minority_is_as_small_as_asked_for() -> None:
    split = patients(0, minority=12)
    assert int((split.train.tensors[1] == 0).sum()) == 12
    assert 0.2 < float((split.test.tensors[1] == 0).float().mean()) < 0.5


def test_cifar_takes_the_place_of_digits_where_it_is_given(tmp_path: Path, monkeypatch: Any) -> None:
    data = TensorDataset(torch.randn(64, 3, 32, 32), torch.arange(64) % 10)
    monkeypatch.setattr(studies, "cifar10", lambda root, part: data)
    studies._cifar.cache_clear()
    arm = next(s for s in STUDIES if s.name == "one_cycle").arms["one-cycle, 6 epochs"]
    with tricks.quiet():
        found = arm(0, Setting(0.2, tmp_path))
    studies._cifar.cache_clear()
    assert 0 <= found["test"] <= 1 and isinstance(images(0, Setting()), Split)


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--data-root", "/no/such/folder"], ["--studies", "nothing"]])
def test_wrong_options_are_told(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as error:
        tricks.main(arguments)
    assert error.value.code == 2


def test_the_committed_result_is_complete_and_its_page_is_made_from_it() -> None:
    for result in claims.newest_tricks():
        assert {s["name"] for s in result["studies"]} == {s.name for s in STUDIES}
        assert (claims.FOLDER / result["file"]).with_suffix(".md").read_text() == tricks.markdown(result)


def test_a_cosine_convolution_gives_cosines() -> None:
    layer = studies.CosineConv2d(3, 5, 3, 2, padding=1)
    x = torch.randn(2, 3, 7, 7)
    found = layer(x)
    patches = torch.nn.functional.unfold(x, 3, padding=1, stride=2)  # [2, 27, places]
    weight = layer.weight.flatten(1)
    cosines = torch.nn.functional.cosine_similarity(weight[None, :, :, None], patches[:, None], dim=2)
    torch.testing.assert_close(found.flatten(2), cosines, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(3 * x), found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", studies.NORMS)
def test_every_normalisation_has_gradients(norm: str) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(4, 1, 8, 8), torch.arange(4))
    net = studies.cnn(Split(data, data), norm)
    net(data.tensors[0]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
