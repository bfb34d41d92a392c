"""What the laws draw from: one settings profile for all of them, tensors of every kind, and small trainings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lightning_tricks
from lightning_tricks.lifecycle.trick import Trick
from tests import thorough
from tests.matrix import EXAMPLES
from tests.problems import Classifier, sgd

CALLBACKS = sorted(
    n for n in lightning_tricks.__all__ if inspect.isclass(c := getattr(lightning_tricks, n)) and issubclass(c, Trick)
)
NORM_TYPES = (0.5, 1.0, 1.5, 2.0, 3.0, float("inf"))
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = ((), (0,), (1,), (5,), (2, 0), (0, 3), (3, 4), (2, 3, 2), (17, 3))
seeds = st.integers(0, 2**31 - 1)


# the one profile: the same examples at every run, nothing written to disk, no clock
PROFILE = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def law(examples: int) -> Callable[[Any], Any]:
    """The profile, with a number of examples; half of them, and not less than two, without ``--slow``."""
    return settings(PROFILE, max_examples=examples if thorough.SLOW else max(2, examples // 2))


def numbers(seed: int, shape: tuple[int, ...], dtype: torch.dtype, size: float, contiguous: bool = True) -> Tensor:
    """Gaussian numbers of a given size; without ``contiguous`` every second of a transposed tensor."""
    generator = torch.Generator().manual_seed(seed)
    if contiguous or not shape:
        return (size * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    wide = size * torch.randn(*reversed(shape[1:]), 2 * shape[0], generator=generator, dtype=torch.float64)
    return wide.to(dtype).permute(*reversed(range(len(shape))))[::2]


@st.composite
def gradients(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES, most: int = 7) -> list[Tensor]:
    """Tensors as gradients may be: empty, scalar, not contiguous, of mixed types, all zero, tiny and large."""
    count, seed = draw(st.integers(1, most)), draw(seeds)
    size = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    return [
        numbers(
            seed + i,
            draw(st.sampled_from(SHAPES)),
            draw(st.sampled_from(dtypes)),
            draw(st.sampled_from([0.0, size, size])),
            draw(st.booleans()),
        )
        for i in range(count)
    ]


def parameters_with(values: list[Tensor]) -> list[nn.Parameter]:
    """Parameters that have these gradients, strides and all."""
    made = []
    for value in values:
        parameter = nn.Parameter(torch.ones_like(value))
        parameter.grad = value.clone(memory_format=torch.preserve_format)
        made.append(parameter)
    return made


def double(values: Any) -> list[Tensor]:
    return [value.detach().double().clone() for value in values]


def flat(values: Any) -> Tensor:
    """All numbers in one float64 vector."""
    return torch.cat([value.detach().double().reshape(-1) for value in values])


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit, NaN being equal to NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.isnan(), other.isnan()) and torch.equal(
            one.nan_to_num(), other.nan_to_num()
        )  # fmt: skip
    return bool(one == other) or (one != one and other != other)


def example(name: str, **changed: Any) -> Any:
    return getattr(lightning_tricks, name)(**{**EXAMPLES[name], **changed})


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: sgd(p, foreach=True),
    "momentum fused": lambda p: sgd(p, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
}


class Drawing(Classifier):
    """A network that draws random numbers and keeps running statistics: whoever disturbs either is seen."""

    def __init__(self, make_optimizer: Any = sgd, manual: bool = False, **more: Any) -> None:
        torch.manual_seed(0)
        parts = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10)]
        super().__init__(make_optimizer, manual, net=nn.Sequential(*parts), **more)

    def everything(self) -> Tensor:
        """Weights and buffers."""
        return flat(self.state_dict().values())
