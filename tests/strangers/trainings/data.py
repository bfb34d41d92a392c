"""Small real data, split into training and held-out samples, and scores that no observer knows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Split = tuple[Tensor, Tensor, Tensor, Tensor]


def split(x: Any, y: Any, held_out: int, dtype: Any = None) -> Split:
    """Return training inputs and targets, then held-out ones, in an order that is always the same."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = torch.as_tensor(x).float()[order], torch.as_tensor(y)[order]
    y = y if dtype is None else y.to(dtype)
    return x[held_out:], y[held_out:], x[:held_out], y[:held_out]


@functools.cache
def digits() -> Split:
    """Scikit-learn's digits as images ``[n, 1, 8, 8]`` in [0, 1]."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return split(x.reshape(-1, 1, 8, 8) / 16, y, 500)


@functools.cache
def table(name: str) -> Split:
    """A table of scikit-learn with standardised columns, and standardised targets if these are numbers."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    if name == "diabetes":
        return split(x, (y - y.mean()) / y.std(), 100, torch.float32)
    return split(x, y, len(x) // 4)


@functools.cache
def text() -> tuple[Tensor, Tensor]:
    """Python's own source as bytes below 128: for training, and held out."""
    import argparse
    import heapq
    import statistics

    def read(*modules: Any) -> Tensor:
        joined = "".join(inspect.getsource(module) for module in modules)
        return torch.tensor([min(code, 127) for code in joined.encode()])

    return read(argparse, statistics), read(heapq)


def windows(codes: Tensor, length: int, number: int) -> Tensor:
    """Return ``number`` pieces of a text, evenly spaced, each ``length`` long."""
    starts = torch.linspace(0, len(codes) - length - 1, number).long()
    return torch.stack([codes[start : start + length] for start in starts])


@torch.no_grad()
def accuracy(module: torch.nn.Module, predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """Return the share of samples whose largest output is their class, in eval mode."""
    module.eval()
    return float((predict(x).argmax(1) == y).float().mean())


@torch.no_grad()
def neighbours(module: torch.nn.Module, embed: Callable[[Tensor], Tensor], data: Split) -> float:
    """Return how many of the 50 nearest of 800 training samples are of the same class, in eval mode."""
    module.eval()
    x, y, new, labels = data
    known, unknown = (torch.nn.functional.normalize(embed(part).flatten(1)) for part in (x[:800], new))
    nearest = torch.cdist(unknown, known).topk(50, largest=False).indices
    return float((y[:800][nearest] == labels[:, None]).float().mean())


@torch.no_grad()
def probe(module: torch.nn.Module, embed: Callable[[Tensor], Tensor], data: Split) -> float:
    """Return what ridge regression on unit vectors explains of held-out classes; nothing, where all lie at one point."""
    module.eval()
    x, y, new, labels = data
    known, unknown = (torch.nn.functional.normalize(embed(part).flatten(1)) for part in (x, new))
    mean, classes = known.mean(0), torch.nn.functional.one_hot(y).float()
    known, unknown = known - mean, unknown - mean
    ridge = known.T @ known + len(x) * 1e-3 * torch.eye(known.shape[1])
    weights = torch.linalg.solve(ridge, known.T @ (classes - classes.mean(0)))
    return explained(unknown @ weights + classes.mean(0), torch.nn.functional.one_hot(labels, 10).float())


def explained(prediction: Tensor, target: Tensor) -> float:
    """Return the share of the variance of a target that a prediction explains."""
    residual = (prediction - target).square().sum()
    return float(1 - residual / (target - target.mean(0)).square().sum())
