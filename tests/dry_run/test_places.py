from __future__ import annotations

import torch
from torch import nn

from lightning_tricks.dry_run.places import Place
from lightning_tricks.dry_run.walk import Walk


def test_places_read_as_the_user_would_write_them() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    module.table = {"a": [torch.ones(1)]}  # type: ignore[assignment]
    walk = Walk()
    walk.add("module", module)
    walk.run()
    assert [str(found.place) for found in walk.tensors] == ["module.0.weight", "module.0.bias", "module.table['a'][0]"]


def test_a_place_says_its_root() -> None:
    assert Place(Place(Place(None, "callback X"), ".a"), "[0]").root == "callback X"
