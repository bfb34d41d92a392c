from __future__ import annotations

import multiprocessing
from typing import Any

import numpy
import pytest
import torch

from lightning_tricks.dry_run.memory import ArrayRecord, ProtocolRecord, is_bytes


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6).reshape(2, 3).T,
        numpy.arange(10)[::2],
        numpy.array([1.0, numpy.nan]),
        numpy.zeros(3, dtype=[("a", "f4"), ("b", "i8")]),
        numpy.array(["a", "bc"]),
        numpy.float32([[1, 2]]),
        numpy.array(5),
    ],
)
def test_arrays_of_all_kinds_are_written_in_place(array: Any) -> None:
    before, base = array.tobytes(), array.base
    record = ArrayRecord(array)
    array[...] = numpy.zeros((), array.dtype) if array.dtype.names is None else 7
    record.restore()
    assert array.tobytes() == before and array.base is base and record.intact()


def test_an_object_of_another_language_that_gives_out_its_state() -> None:
    from sklearn.datasets import load_digits
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(random_state=0).fit(*load_digits(return_X_y=True)).tree_
    before = tree.predict(numpy.zeros((1, 64), numpy.float32)).tobytes()
    record = ProtocolRecord(tree)
    assert record.intact()
    tree.value[:] = 0.0
    assert not record.intact()
    record.restore()
    assert tree.predict(numpy.zeros((1, 64), numpy.float32)).tobytes() == before and record.intact()


def test_an_array_over_the_memory_of_a_tensor_is_put_back() -> None:
    """numpy refuses to set the flag of an array whose memory is not its own, also to what it is."""
    tensor = torch.zeros(3)
    array = tensor.numpy()
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)
    record = ArrayRecord(array)
    array += 1
    record.restore()
    assert record.intact()
    assert not tensor.any()


@pytest.mark.parametrize("make", [lambda: multiprocessing.Value("i", 3), lambda: multiprocessing.Array("d", 4)])
def test_memory_that_processes_share_is_told_by_its_class(make: Any) -> None:
    assert is_bytes(type(make().get_obj()))
