from __future__ import annotations

from typing import Any

import numpy
import torch

from lightning_tricks.collapse.association import fingerprints
from lightning_tricks.collapse.known_samples import KnownSamples, inputs_of

CPU = torch.device("cpu")


def test_inputs_are_the_largest_tensor_and_floats_before_whole_numbers() -> None:
    x, mask = torch.rand(4, 3), torch.ones(4, 50, dtype=torch.long)
    assert inputs_of({"x": x, "mask": mask}) is x
    assert inputs_of([mask, torch.rand(4)]) is mask
    assert inputs_of(("a text", torch.rand(4))) is None


def test_samples_of_a_second_epoch_are_known_and_those_of_the_first_are_not() -> None:
    torch.manual_seed(0)
    data, known = torch.randn(10, 64, 8), KnownSamples()
    for batch in data:
        known.see((batch, torch.zeros(64)), most=512)
    assert known.take(CPU).tolist() == [0, 640]
    known.see(data[3], most=512)
    known.see(torch.cat([data[0][:16], torch.randn(48, 8)]), most=512)
    assert known.take(CPU).tolist() == [80, 128]
    assert known.take(CPU).tolist() == [0, 0], "it counts from 0 again"


def test_only_the_samples_that_are_looked_at_count() -> None:
    known = KnownSamples()
    known.see(torch.randn(100, 4), most=30)
    assert known.take(CPU).tolist() == [0, 30]


def test_a_batch_without_inputs_changes_nothing() -> None:
    known = KnownSamples()
    known.see(torch.zeros(5), most=30)
    assert known.state() == {"prints": None, "known": None}


def test_the_oldest_of_more_than_4096_samples_are_forgotten() -> None:
    torch.manual_seed(0)
    data, known = torch.randn(9, 512, 4), KnownSamples()
    for batch in data:
        known.see(batch, most=512)
    known.take(CPU)
    known.see(data[0], most=512)
    assert known.take(CPU).tolist() == [0, 512]
    known.see(data[8], most=512)
    assert known.take(CPU).tolist() == [512, 512]


def test_what_was_seen_goes_on_after_a_resume() -> None:
    torch.manual_seed(0)
    batch, first, second, old = torch.randn(64, 8), KnownSamples(), KnownSamples(), KnownSamples()
    first.see(batch, most=512)
    saved: dict[str, Any] = first.state()
    first.see(batch, most=512)  # what was saved is a copy
    second.load(saved, CPU)
    second.see(batch, most=512)
    old.load({}, CPU)  # of a version without it
    assert second.take(CPU).tolist() == first.take(CPU).tolist() == [64, 128]
    assert old.take(CPU).tolist() == [0, 0]


def test_repeated_samples_and_those_with_a_nan_are_counted_as_numpy_does() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(3, (200, 4), generator=generator).float()
    whole[::7, 0] = torch.nan
    known, before, wanted = KnownSamples(), torch.zeros(0), 0
    for batch in whole.split(32):
        prints = fingerprints(batch)
        wanted += int(numpy.isin(prints.numpy(), before.numpy()).sum())
        before = torch.cat([prints, before])
        known.see(batch, most=512)
    assert wanted > 0
    assert known.take(CPU).tolist() == [wanted, 200]
