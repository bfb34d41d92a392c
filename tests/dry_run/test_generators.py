from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from lightning_tricks.dry_run.generators import global_state, is_generator, set_global_state, set_state, state_of

KINDS: dict[str, Any] = {
    "torch": lambda: torch.Generator().manual_seed(1),
    "python": lambda: random.Random(1),
    "RandomState": lambda: numpy.random.RandomState(1),
    **{
        name: lambda name=name: numpy.random.Generator(getattr(numpy.random, name)(1))
        for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
    },
    "a bit generator": lambda: numpy.random.PCG64(1),
}


def draw(generator: Any) -> list[Any]:
    if isinstance(generator, torch.Generator):
        return torch.randn(5, generator=generator).tolist()
    if isinstance(generator, numpy.random.BitGenerator):
        return list(generator.random_raw(5))
    if isinstance(generator, random.Random):
        return [generator.gauss(0, 1), generator.getrandbits(70)]
    if isinstance(generator, numpy.random.RandomState):
        return [generator.randn(), generator.bytes(3)]
    return [generator.normal(), generator.random(dtype=numpy.float32), int(generator.integers(9))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drawn_before", [0, 1])
def test_a_state_goes_through_a_checkpoint_and_into_another_generator(
    kind: str, drawn_before: int, tmp_path: Path
) -> None:
    generator, other = KINDS[kind](), KINDS[kind]()
    assert is_generator(generator)
    for _ in range(drawn_before):  # some keep a second normal number, or half a word, in store
        draw(generator)
    torch.save(state_of(generator), tmp_path / "state.pt")
    expected = [draw(generator) for _ in range(3)]
    draw(other)
    set_state(other, torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw(other) for _ in range(3)] == expected


def test_the_global_ones_together(tmp_path: Path) -> None:
    def numbers() -> list[float]:
        return [float(torch.rand(1)), random.gauss(0, 1), float(numpy.random.randn()), random.random()]

    numbers()
    torch.save(global_state(), tmp_path / "state.pt")
    expected = [numbers() for _ in range(3)]
    set_global_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [numbers() for _ in range(3)] == expected
