"""Along which axis of a batch its samples lie: of recurrent networks time may come first. Asked of the loader."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import DataLoader

from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.dry_run.loaders import is_read_by_position, items_of

_NUMBERS = (2, 3)  # of samples: the axis that is as long both times is theirs


def along_second_axis(exam: Examination) -> list[Tensor]:
    """Return the tensors of the batch whose samples lie along the second axis; none where the loader cannot tell.

    The loader is asked for batches of two and of three samples. What the model takes for samples says nothing: a
    recurrent network may take the batch for time by mistake.
    """
    loaders = [x for x in exam.dry_run.data.loaders if isinstance(x, DataLoader)]
    if len(loaders) != 1 or loaders[0].batch_sampler is None:
        return []
    loader, given = loaders[0], tensors_of(exam.batch)
    batches = [(int(loader.batch_size or 0), given)]
    if is_read_by_position(loader):
        try:
            batches = [(n, tensors_of(loader.collate_fn(items_of(loader.dataset, range(n))))) for n in _NUMBERS]
        except Exception:  # (too few samples, or batches that cannot be made of any two of them)
            return []
    if any(len(tensors) != len(given) for _, tensors in batches):
        return []
    shapes = [[(n, tensors[i].shape) for n, tensors in batches] for i in range(len(given))]
    return [t for t, found in zip(given, shapes, strict=True) if t.ndim > 1 and _second(found)]


def _second(found: Sequence[tuple[int, Sequence[int]]]) -> bool:
    """Whether a tensor is as long as there are samples along the second axis, and not along the first one.

    >>> _second([(2, (9, 2)), (3, (9, 3))]), _second([(2, (2, 9)), (3, (3, 9))]), _second([(2, (2, 2)), (3, (3, 3))])
    (True, False, False)
    """
    second = all(len(shape) > 1 and shape[1] == number for number, shape in found)
    return second and any(shape[0] != number for number, shape in found)
