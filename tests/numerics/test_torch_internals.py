"""The replacements of torch's private names do what these do, and what has none is refused by name."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_tricks import UnsupportedError
from lightning_tricks.numerics import torch_internals as internals
from lightning_tricks.numerics.internals import REFUSED


def test_this_torch_has_all_of_them() -> None:
    assert internals.ABSENT == []


def test_what_cannot_be_replaced_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"torch .* has no torch.utils._pytree.tree_leaves, .*docs/versions.md"):
        internals.require_torch(internals.INTERNALS)
    internals.require_torch([internal for internal in internals.INTERNALS if internal.without != REFUSED])


def tensors() -> list[torch.Tensor]:
    return [torch.tensor([3.0, -4.0]), torch.full((2, 2), 7.0), torch.tensor([1e-3])]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, torch.inf])
def test_norms_without_the_kernel_are_the_same(norm_type: float, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = internals.foreach_norm(tensors(), norm_type, torch.float64)
    monkeypatch.delattr(torch, "_foreach_norm")
    slow = internals.foreach_norm(tensors(), norm_type, torch.float64)
    torch.testing.assert_close(slow, fast)
    torch.testing.assert_close(slow, [t.double().norm(norm_type) for t in tensors()])


@pytest.mark.parametrize("factor", [0.5, torch.tensor(0.5), [0.5, 2.0, 3.0]], ids=["number", "tensor", "each"])
def test_factors_without_the_kernel_are_the_same(factor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = tensors(), tensors()
    internals.foreach_mul_(fast, factor)
    monkeypatch.delattr(torch, "_foreach_mul_")
    internals.foreach_mul_(slow, factor)
    each = factor if isinstance(factor, list) else [factor] * 3
    for a, b, t, f in zip(fast, slow, tensors(), each, strict=True):
        assert torch.equal(a, b) and torch.equal(a, t * f)


def test_clamping_without_the_kernels_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = tensors(), tensors()
    internals.foreach_clamp_(fast, 3.5)
    monkeypatch.delattr(torch, "_foreach_clamp_min_")
    internals.foreach_clamp_(slow, 3.5)
    for a, b, t in zip(fast, slow, tensors(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, t.clamp(-3.5, 3.5))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("_ConvNd", [nn.Conv2d(1, 1, 1), nn.ConvTranspose3d(1, 1, 1)]),
        ("_BatchNorm", [nn.BatchNorm1d(1), nn.SyncBatchNorm(1)]),
        ("_InstanceNorm", [nn.InstanceNorm2d(1)]),
        ("_DropoutNd", [nn.Dropout(), nn.AlphaDropout()]),
        ("_Loss", [nn.CrossEntropyLoss(), nn.MSELoss()]),
    ],
)
def test_the_public_classes_are_those_of_the_private_base(name: str, layers: list[nn.Module]) -> None:
    modules = (nn.modules.conv, nn.modules.batchnorm, nn.modules.instancenorm, nn.modules.dropout, nn.modules.loss)
    module = next(m for m in modules if hasattr(m, name))
    public = internals._classes(object(), name, *[type(layer) for layer in layers])
    assert internals._classes(module, name) == (getattr(module, name),)
    for layer in layers:
        assert isinstance(layer, internals._classes(module, name)) and isinstance(layer, public)


def test_without_the_stack_of_functorch_hooks_read_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(internals.in_functorch())
        return x

    torch.vmap(look)(torch.ones(2))
    monkeypatch.delattr(torch._C._functorch, "peek_interpreter_stack")
    torch.vmap(look)(torch.ones(2))
    assert seen == [True, False]


def test_a_version_counter_goes_back_and_without_the_function_stays_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.ones(1)
    tensor.add_(1)
    internals.set_version(tensor, 0)
    assert internals.version_of(tensor) == 0
    monkeypatch.delattr(torch._C._autograd, "_unsafe_set_version_counter")
    tensor.add_(1)
    internals.set_version(tensor, 0)
    assert internals.version_of(tensor) == 1


def test_an_iterator_is_advanced_without_loading() -> None:
    loaded: list[int] = []

    class Data(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> int:
            loaded.append(i)
            return i

    iterator = iter(DataLoader(Data()))
    assert internals.can_skip(iterator) and not internals.can_skip(iter([]))
    internals.skip_one(iterator)
    assert next(iterator).item() == 1
    assert loaded == [1]


def test_a_torch_that_lacks_one_is_refused_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.utils._pytree, "tree_flatten_with_path")
    # (a second module of the same file: the first one stays what other modules use)
    spec = importlib.util.spec_from_file_location("torch_internals_again", internals.__file__)
    assert spec is not None and spec.loader is not None
    with pytest.raises(UnsupportedError, match=r"has no torch\.utils\._pytree\.tree_flatten_with_path"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
