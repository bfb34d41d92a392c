"""CIFAR-10 from a folder on disk: ``data_batch_1`` to ``5`` and ``test_batch``, as the original archive holds them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.utils.data import TensorDataset

_NAMES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class _PlainUnpickler(pickle.Unpickler):
    """Loads dicts, lists and numpy arrays, and nothing else: a pickle from the internet may hold any program."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "_frombuffer"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in a CIFAR-10 batch")


def cifar10(root: Path, part: str = "train") -> TensorDataset:
    """Return normalised images ``[n, 3, 32, 32]`` and labels.

    Args:
        root: the folder ``cifar-10-batches-py``, or the one that holds it.
        part: ``"train"`` or ``"test"``.

    Raises:
        FileNotFoundError: a file is missing; the message says where it was looked for, and what to do.
        ValueError: a file is no CIFAR-10 batch.
    """
    folder = root / "cifar-10-batches-py" if (root / "cifar-10-batches-py").is_dir() else root
    images, labels = [], []
    for name in _NAMES[part]:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"--data-root {root}: {path} is missing. Unpack cifar-10-python.tar.gz there "
                "(https://www.cs.toronto.edu/~kriz/cifar.html); nothing is downloaded."
            )
        try:
            found = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
            data = numpy.asarray(found[b"data"], dtype=numpy.uint8).reshape(-1, 3, 32, 32)
            labels += [int(label) for label in found[b"labels"]]
        except (KeyError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is no CIFAR-10 batch ({type(error).__name__}: {error}).") from error
        images.append(torch.from_numpy(data.copy()))
    pixels = torch.cat(images).float() / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (_MEAN, _STD))
    return TensorDataset((pixels - mean) / std, torch.tensor(labels))
