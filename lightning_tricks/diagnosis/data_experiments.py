"""The experiments of SanityCheck on data: their order, and what validation shares with training."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from lightning_tricks.diagnosis import sanity_data
from lightning_tricks.diagnosis.class_weights import SPREAD, counted_less, drawn_rarer, positions
from lightning_tricks.diagnosis.examination import Examination, tensors_of
from lightning_tricks.diagnosis.input_scales import prepared_differently
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.dry_run.loaders import is_read_by_position, items_of
from lightning_tricks.errors import NotRestorableError
from lightning_tricks.modules.labels import counts

WINDOW = 8  # consecutive batches
_WIDE, _VALUES = 8, 16  # numbers of a sample, and different ones in a batch, that are not the same by chance
NEW = "validation data are new"
VALIDATION, TRAINING = 128, 2048  # samples that are compared


def order(exam: Examination) -> list[Check]:
    """Compare the labels of consecutive batches with those from everywhere in the data."""
    look, at, name = exam.first, exam.target_at, "data are shuffled"
    loaders = [x for x in exam.dry_run.data.loaders if isinstance(x, DataLoader)]
    weighted = [counts_of for x in loaders if (counts_of := _weighted(x)) is not None]
    if weighted:
        return [sanity_data.weights_of_samples(*weighted[0])]
    # (a window of most of the data is like the rest in any order)
    batches = min(WINDOW, max(1, int(min(exam.dry_run.data.batches_per_epoch, 1e6)) // 3))
    target = look.target
    single = target is not None and target.numel() == len(target) and look.sequence is None
    if at is None or target is None or not single or len(loaders) != 1 or exam.roles.get(at) != "target":
        return []
    if exam.dry_run.data.batches_per_epoch < 2:
        return [Check(name, True, "one batch holds all data")]
    exam.dry_run.restart()
    window = [tensors_of(exam.dry_run.data.next_batch()) for _ in range(max(2, batches))]
    if all(_alike(window[0], other) for other in window[1:]):
        return [Check(name, None, "every batch is the same")]
    for i, t in enumerate(window[0]):
        if exam.roles.get(i) == "input" and t.is_floating_point() and sanity_data.overlapping(t):
            return [Check(name, True, "samples are windows of a series, one step apart")]
    whole = _spread(loaders[0], at)
    if whole is None:
        return [Check(name, None, "the data cannot be read by position")]
    weighed = (
        (drawn_rarer(loaders[0], whole), counted_less(exam.first_calls(), whole)) if look.labels is not None else ()
    )
    rarer = next((check for check in weighed if check is not None), None)
    if rarer is not None:
        return [rarer]
    window = _last(loaders[0], exam.dry_run.data.batches_per_epoch, batches) or window[:batches]
    found = [tensors[at].reshape(-1).to(whole.device) for tensors in window]
    if look.labels is None:
        # (numbers are compared in five classes that are equally frequent)
        edges = torch.unique(whole.float().quantile(torch.linspace(0, 1, 6, device=whole.device)[1:-1]))
        found, whole = [sanity_data.in_classes(t, edges) for t in found], sanity_data.in_classes(whole, edges)
    else:
        found = [t[counts(t)].round().long() for t in found]
        whole = whole[counts(whole)].round().long()
    if not len(whole) or not all(len(t) for t in found):
        return [Check(name, None, "no labels that count were seen")]
    return [sanity_data.shuffled(found, whole)]


def _weighted(loader: Any) -> tuple[int, int] | None:
    """Return how many weights a sampler has, and how many samples there are, where these are not as many."""
    sampler = loader.sampler
    if not isinstance(sampler, WeightedRandomSampler) or not hasattr(loader.dataset, "__len__"):
        return None
    weights, samples = len(sampler.weights), len(loader.dataset)
    return None if weights == samples else (weights, samples)


def _last(loader: Any, per_epoch: float, batches: int) -> list[list[Tensor]] | None:
    """Return the last batches of a pass over the data, where they can be told from their positions.

    What is learned first is forgotten where the end has none of it; a curriculum that adds classes keeps the old ones.
    """
    data = loader.dataset
    sequential = isinstance(loader.sampler, SequentialSampler)
    if not sequential or not math.isfinite(per_epoch):
        return None
    if loader.batch_sampler is None:
        end = min(len(data), int(per_epoch))
        return [tensors_of(loader.collate_fn(data[i])) for i in range(max(0, end - batches), end)]
    if type(loader.batch_sampler) is not BatchSampler:
        return None
    size, end = int(loader.batch_size), min(len(data), int(per_epoch) * int(loader.batch_size))
    groups = [range(i, min(i + size, end)) for i in range(max(0, end - batches * size), end, size)]
    return [tensors_of(loader.collate_fn(items_of(data, list(group)))) for group in groups]


def _spread(loader: Any, at: int) -> Tensor | None:
    """Return the target of samples from everywhere in the data."""
    batches = _read(loader, SPREAD)
    return None if batches is None else torch.cat([tensors_of(b)[at].reshape(-1).cpu() for b in batches])


def _read(loader: Any, most: int, start: int = 0) -> list[Any] | None:
    """Read samples from everywhere in the data, by position, and make batches of them as the loader does.

    An iterable data set has no positions: of it the first samples are read.

    Args:
        loader: a DataLoader.
        most: samples.
        start: 0 for the first sample of each stretch.
    """
    data = loader.dataset
    if isinstance(data, IterableDataset):
        return _first(loader, most)
    try:
        size = len(data)
    except TypeError:
        return None
    sized = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if loader.batch_sampler is None:  # each item of the data set is a batch
        wanted = positions(0, size, 64)
        batches: list[Any] = []
        rows = 0
        for i in wanted:
            batches.append(loader.collate_fn(data[i]))
            rows += max((len(t) for t in tensors_of(batches[-1]) if t.ndim), default=1)
        return batches
    wanted = positions(start, size, most)
    step = int(sized or 32)
    groups = [wanted[i : i + step] for i in range(0, len(wanted), step)]
    return [loader.collate_fn(items_of(data, group)) for group in groups]


def _first(loader: Any, most: int) -> list[Any]:
    """Read the first samples of data that cannot be asked by position, in whole batches."""
    batches: list[Any] = []
    rows = 0
    for batch in islice(loader, most):
        batches.append(batch)
        rows += max((len(t) for t in tensors_of(batch) if t.ndim), default=1)
        if rows >= most:
            break
    return batches


# -- validation -------------------------------------------------------------------------------------------------------


def validation(exam: Examination) -> list[Check]:
    """Compare samples of the validation data with those of the training data, by their values."""
    loaders = [x for x in exam.dry_run.data.loaders if isinstance(x, DataLoader)]
    exam.dry_run.restart()
    try:
        with exam.dry_run.data.validation_loaders() as others:
            if not others:
                return []
            if len(loaders) != 1:
                return [Check(NEW, None, "the training data cannot be read by position")]
            return _compared(exam, loaders[0], others[0])
    except NotRestorableError as error:
        return [Check(NEW, None, f"the validation data cannot be looked at without a trace: {error}")]


def _compared(exam: Examination, training: Any, other: Any) -> list[Check]:
    chosen = [i for i, role in exam.roles.items() if role == "input"]
    seen = _read(other, VALIDATION)
    known = _read(training, TRAINING)
    if not chosen or seen is None or known is None:
        return [Check(NEW, None, "no inputs that can be compared were found")]
    differently = prepared_differently(*([_joined(batches, i) for i in chosen] for batches in (known, seen)))
    return [_shared(training, other, chosen, known, seen), *([differently] if differently else [])]


def _joined(batches: list[Any], at: int) -> Tensor:
    """Return the numbers of one tensor of several batches, as it is for the first one's shape."""
    tensors = [b[at].cpu() for b in map(tensors_of, batches) if at < len(b)]
    alike = [t for t in tensors if tensors[0].shape[1:] == t.shape[1:] and t.ndim]
    return torch.cat(alike) if alike else torch.zeros(0)


def _shared(training: Any, other: Any, chosen: list[int], known: list[Any], seen: list[Any]) -> Check:
    """Judge how many samples of the validation data are among those of the training data."""
    again = _read(training, 8)
    first, second = _hashes(known, chosen), _hashes(again or [], chosen)
    fresh = _hashes(seen, chosen)
    if not first or not fresh:
        return Check(NEW, None, "the validation data are of another form")
    if second and _read_twice_differ(training, chosen):
        return Check(NEW, None, "samples are different each time that they are read (augmentation)")
    if training.batch_sampler is None and _always_the_same(known, chosen):
        # a graph, or a full batch: what is held out are labels of some rows, and no input shows which
        return Check(NEW, None, "every batch of the training holds the same samples")
    size = _count(training)
    coverage = 1.0 if size is None else min(1.0, len(first) / size)
    by_position = is_read_by_position(training) and is_read_by_position(other)
    aligned = _aligned(training, other, chosen) if coverage < 0.9 and by_position else None
    if aligned is not None:
        fresh, first, coverage = aligned[0], [*first, *aligned[1]], 1.0
    repeats = 1 - len(set(first)) / len(first) if training.batch_sampler is not None else 0.0
    if _measured_on_a_scale(known, chosen):
        repeats = 0.0  # (the same samples stand there several times, as of exports that were joined)
    check = sanity_data.validation_is_new(fresh, first, coverage, repeats)
    if check.passed and not is_read_by_position(training) and len(first) >= TRAINING:
        return Check(NEW, None, f"{check.evidence}, and the stream goes on")
    return check


def _always_the_same(batches: list[Any], chosen: list[int]) -> bool:
    """Whether all batches are one and the same."""
    first = set(_hashes(batches[:1], chosen))
    return bool(first) and all(set(_hashes([b], chosen)) == first for b in batches[1:])


def _measured_on_a_scale(batches: list[Any], chosen: list[int]) -> bool:
    """Whether samples hold so many different numbers that two of them are not equal by chance."""
    inputs = [tensors_of(batches[0])[i] for i in chosen if i < len(tensors_of(batches[0]))]
    wide = [t for t in inputs if t.is_floating_point() and t.ndim > 1 and t[0].numel() >= _WIDE]
    return any(len(torch.unique(t)) >= _VALUES for t in wide)


def _count(loader: Any) -> int | None:
    known = loader.batch_sampler is not None and is_read_by_position(loader)
    return len(loader.dataset) if known else None


def _read_twice_differ(loader: Any, chosen: list[int]) -> bool:
    left, right = (_hashes(_read(loader, 4) or [], chosen) for _ in range(2))
    return left != right


def _aligned(training: Any, other: Any, chosen: list[int]) -> tuple[list[bytes], list[bytes]] | None:
    """Read samples at the positions that validation samples have in the same data set, where it is the same."""
    (base, places), (other_base, other_places) = _base(training.dataset), _base(other.dataset)
    if training.batch_sampler is None or other.batch_sampler is None:
        return None
    # (the same data may be two objects, of which one augments)
    if base is not other_base and len(base) != len(other_base):
        return None
    wanted = [int(i) for i in torch.linspace(0, len(other_places) - 1, min(64, len(other_places))).tolist()]
    among = set(places)
    positions = [other_places[i] for i in wanted]
    theirs = _hashes([other.collate_fn([other.dataset[i]]) for i in wanted], chosen)
    inside = [p for p in positions if p in among]
    where = {p: i for i, p in enumerate(places)}
    ours = _hashes([training.collate_fn([training.dataset[where[p]]]) for p in inside], chosen)
    return (theirs, ours) if ours and theirs else None


def _base(data: Any) -> tuple[Any, Any]:
    places: Any = range(len(data))
    while isinstance(data, Subset):
        inner = data.indices
        places = [int(inner[i]) for i in places]
        data = data.dataset
    return data, places


def _hashes(batches: list[Any], chosen: list[int]) -> list[bytes]:
    found: list[bytes] = []
    for batch in batches:
        tensors = tensors_of(batch)
        if max(chosen) >= len(tensors):
            return []
        rows = [tensors[i] for i in chosen if tensors[i].ndim]
        size = max((len(t) for t in rows), default=0)
        rows = [t for t in rows if len(t) == size]
        if rows:
            found += sanity_data.digests(rows)
    return found


def _alike(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(left, right, strict=False))
