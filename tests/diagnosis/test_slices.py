from __future__ import annotations

import torch

from lightning_tricks.diagnosis.slices import Numbers, Slices, layout_of, numbers_of, shared_vector, with_those_apart


def test_what_parts_measured_comes_back_part_by_part() -> None:
    measured = [
        Slices((torch.tensor([1.0, 2.0]), torch.zeros(0)), (torch.tensor([9.0]),), (0.5,)),
        Slices(),
        Slices((torch.tensor([3.0]),), (torch.tensor([7.0, 8.0]),)),
    ]
    shared = shared_vector(measured)
    assert shared.tolist() == [1.0, 2.0, 3.0]
    vector = with_those_apart(shared * 10, measured)
    assert vector.tolist() == [10.0, 20.0, 30.0, 9.0, 7.0, 8.0], "only what is shared is averaged"
    assert numbers_of(layout_of(measured), vector.tolist()) == [
        Numbers(([10.0, 20.0], []), ([9.0],), (0.5,)),
        Numbers(),
        Numbers(([30.0],), ([7.0, 8.0],)),
    ]


def test_the_shared_part_has_the_widest_type_of_its_slices() -> None:
    measured = [Slices((torch.zeros(1, dtype=torch.float64),)), Slices((torch.zeros(1),))]
    assert shared_vector(measured).dtype == torch.float64
