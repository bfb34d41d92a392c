from __future__ import annotations

import pickle
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_tricks import MixedGenerations
from lightning_tricks.functional import tail_mass, variance_ratio


def test_the_variance_falls_as_theory_says_under_replacement_and_not_under_accumulation() -> None:
    """E var_t = var_0 (1 - 1/n)^t: a Gaussian fitted (biased) to n samples of the last one, over and over."""
    n, generations, runs = 20, 15, 400
    draw = torch.Generator().manual_seed(0)
    real = torch.randn(runs, n, generator=draw)
    replaced, kept = real.clone(), real.clone()
    for _ in range(generations):
        for name in ("replaced", "kept"):
            data = replaced if name == "replaced" else kept
            mean, std = data.mean(1, keepdim=True), data.std(1, unbiased=False, keepdim=True)
            new = mean + std * torch.randn(runs, n, generator=draw)
            if name == "replaced":
                replaced = new
            else:
                kept = torch.cat([kept, new], 1)
    first = torch.stack([variance_ratio(r[:, None], o[:, None]) for r, o in zip(replaced, real, strict=True)])
    then = torch.stack([variance_ratio(r[:, None], o[:, None]) for r, o in zip(kept, real, strict=True)])
    assert first.median() < 0.75
    assert then.median() > 0.85
    assert replaced.var(1, unbiased=False).mean().item() == pytest.approx((1 - 1 / n) ** (generations + 1), rel=0.15)


def test_the_tails_hold_what_they_should() -> None:
    draw = torch.Generator().manual_seed(0)
    real = torch.randn(20_000, 2, generator=draw)
    assert tail_mass(torch.randn(20_000, 2, generator=draw), real).item() == pytest.approx(0.10, abs=0.01)
    assert tail_mass(0.5 * torch.randn(5000, 2, generator=draw), real) < 0.01
    low, high = numpy.quantile(real.double().numpy(), [0.05, 0.95], axis=0)
    values = real[:100].double().numpy()
    assert tail_mass(real[:100], real).item() == pytest.approx(((values < low) | (values > high)).mean())


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("accumulate", [0, 1, 2, 3, "a", "b"]),
        ("replace", ["a", "b"]),
        ("fraction", ["a", 0, "b", 1]),
    ],
)
def test_what_is_in_the_mix(mode: Any, wanted: list[Any]) -> None:
    mixed = MixedGenerations([0, 1, 2, 3], ["a", "b"], mode)
    assert list(mixed) == wanted
    assert [mixed[i - len(mixed)] for i in range(len(mixed))] == wanted
    assert mixed.real_share == sum(isinstance(x, int) for x in wanted) / len(wanted)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("real", "generated"), [(100, 100), (1000, 37), (13, 500)])
def test_a_fraction_is_kept_everywhere_and_no_sample_comes_twice(fraction: float, real: int, generated: int) -> None:
    mixed = MixedGenerations(range(real), range(-generated, 0), "fraction", fraction)  # type: ignore[arg-type]
    found = list(mixed)
    assert len(set(found)) == len(found) == len(mixed)
    assert mixed.real_share == pytest.approx(fraction, abs=1.5 / len(found))
    if len(found) >= 40:
        half = [x >= 0 for x in found[: len(found) // 2]]
        assert sum(half) / len(half) == pytest.approx(fraction, abs=0.1)


def test_a_data_loader_takes_it() -> None:
    real, fake = (TensorDataset(torch.full((8, 2), v), torch.arange(8)) for v in (1.0, 2.0))
    mixed = MixedGenerations(real, fake, "fraction", 0.5)
    batch = next(iter(DataLoader(pickle.loads(pickle.dumps(mixed)), batch_size=8)))
    assert batch[0].shape == (8, 2)
    assert batch[0].mean() == 1.5


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter([1])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([1], [2], "acumulate"), ValueError, "Did you mean 'accumulate'"),
        (([1], [2], "fraction", 1.0), ValueError, "fraction must be > 0 and < 1"),
        (([1], [], "replace"), ValueError, "generated must not be empty"),
        (([], [1], "fraction"), ValueError, "real must not be empty"),
        ((Stream(), [1]), TypeError, "real must have a length"),
    ],
)
def test_bad_arguments_are_named(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MixedGenerations(*arguments)


def test_an_index_beyond_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="out of range for 3 samples"):
        MixedGenerations([1, 2], [3])[3]
    assert list(MixedGenerations([], [1])) == [1]
