from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from scipy import stats

from benchmarks import accuracy, optimizer_steps, precision
from benchmarks.measure import difference_interval, equivalence
from benchmarks.models.cifar import cifar10

CPU = torch.device("cpu")


def test_the_intervals_are_scipys() -> None:
    draw = random.Random(0)
    a, b = ([draw.gauss(m, 1.0) for _ in range(12)] for m in (0.2, 0.0))
    ours = difference_interval(a, b, 0.9)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_equivalence_is_two_one_sided_t_tests() -> None:
    draw = random.Random(1)
    for shift in (0.0, 0.3, 0.48, 0.9, -0.9):
        a = [98.0 + shift + draw.gauss(0, 0.2) for _ in range(8)]
        b = [98.0 + draw.gauss(0, 0.2) for _ in range(8)]
        apart = [x - y for x, y in zip(a, b, strict=True)]
        above = stats.ttest_1samp(apart, -0.5, alternative="greater").pvalue < 0.05
        below = stats.ttest_1samp(apart, 0.5, alternative="less").pvalue < 0.05
        verdict, _ = equivalence(a, b, 0.5)
        assert (verdict == "EQUIVALENT") == (above and below)
        assert (verdict == "WORSE") == bool(stats.ttest_1samp(apart, -0.5, alternative="less").pvalue < 0.05)


def test_runs_are_paired_and_equivalent_to_themselves() -> None:
    with precision._quiet():
        found = accuracy.measure("digits", accuracy.digits(), ["ieee-fp32", "bf16-mixed"], CPU, seeds=2, epochs=1)
    base, mixed = found["rows"]
    assert len(base["accuracy"]) == len(mixed["accuracy"]) == 2
    assert min(base["accuracy"]) > 80
    assert abs(mixed["difference"]["value"]) < 5
    assert mixed["verdict"] in ("EQUIVALENT", "INCONCLUSIVE")
    with precision._quiet():
        same = accuracy.measure("digits", accuracy.digits(), ["ieee-fp32"], CPU, seeds=2, epochs=1)
    assert same["rows"][0]["accuracy"] == base["accuracy"], "the same seeds, the same runs"


def test_time_to_accuracy_counts_whole_epochs_of_training() -> None:
    assert accuracy._reached([90.0, 98.0, 97.0]) == 2
    assert accuracy._reached([90.0]) is None
    assert accuracy._seconds_until([90.0, 98.5], [1.0, 2.0]) == 3.0
    assert accuracy._seconds_until([90.0], [1.0]) is None


def test_bits_per_byte_of_an_untrained_model_are_about_8() -> None:
    with precision._quiet():
        found = accuracy.bits_per_byte(["ieee-fp32", "bf16-mixed"], CPU, 2, 1, (1, 64, 16, 4))
    base, mixed = found["rows"]
    assert all(6.5 < bits < 8.6 for bits in base["bits"])
    assert mixed["more_bits_percent"]["low"] <= mixed["more_bits_percent"]["high"]
    assert abs(mixed["more_bits_percent"]["value"]) < 1


def test_optimizer_steps_do_the_same_in_all_kinds() -> None:
    rows = optimizer_steps.measure(CPU, quick=True)
    assert [r["optimizer"] for r in rows] == ["Adam", "SGD, momentum"]
    assert all(r[k]["milliseconds"] > 0 for r in rows for k in optimizer_steps.KINDS)
    for make in optimizer_steps.OPTIMIZERS.values():
        ends = []
        for options in optimizer_steps.KINDS.values():
            w = torch.ones(3, requires_grad=True)
            w.grad = torch.tensor([1.0, 2.0, 3.0])
            make([w], **options).step()
            ends.append(w.detach())
        torch.testing.assert_close(ends[0], ends[1])
        torch.testing.assert_close(ends[0], ends[2])


# -- CIFAR-10 from a folder that is made here ---------------------------------------------------------------------


def folder(root: Path, per_file: int = 20) -> Path:
    place = root / "cifar-10-batches-py"
    place.mkdir()
    draw = numpy.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        labels = [int(x) for x in draw.integers(0, 10, per_file)]
        data = draw.integers(0, 256, (per_file, 3072), dtype=numpy.uint8)
        data[:, 0] = labels
        (place / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol=2))
    return root


def test_cifar_is_read_as_it_was_written(tmp_path: Path) -> None:
    train = cifar10(folder(tmp_path))
    images, labels = train.tensors
    assert images.shape == (100, 3, 32, 32)
    first = images[:, 0, 0, 0] * 0.2470 + 0.4914
    assert torch.equal((first * 255).round().long(), labels)
    assert len(cifar10(tmp_path / "cifar-10-batches-py", "test")) == 20


def test_accuracy_on_a_folder_of_cifar(tmp_path: Path) -> None:
    folder(tmp_path, per_file=120)
    net, train, test, _ = accuracy.cifar(tmp_path)
    small = (lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)), train, test, 64)
    with precision._quiet():
        found = accuracy.measure("CIFAR-10", small, ["ieee-fp32", "bf16-mixed"], CPU, seeds=2, epochs=1)
    assert found["rows"][0]["mean_accuracy"] >= 0
    assert sum(p.numel() for p in net().parameters()) == pytest.approx(11.2e6, rel=0.01)


def test_what_is_missing_or_no_batch_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data_batch_1 is missing. Unpack cifar-10-python.tar.gz"):
        cifar10(tmp_path)
    place = folder(tmp_path) / "cifar-10-batches-py"
    (place / "data_batch_2").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="data_batch_2 is no CIFAR-10 batch"):
        cifar10(tmp_path)

    class Evil:
        def __reduce__(self) -> Any:
            return print, ("run by a pickle",)

    (place / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(ValueError, match="is not expected in a CIFAR-10 batch"):
        cifar10(tmp_path)
