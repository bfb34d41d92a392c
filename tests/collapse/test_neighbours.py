from __future__ import annotations

import numpy
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from lightning_tricks.collapse.neighbours import features_of, nearest, weights_of_ids, weights_of_nearest


def test_the_neighbours_are_those_of_another_library() -> None:
    x = torch.as_tensor(load_digits(return_X_y=True)[0][:250], dtype=torch.float32)
    scaled = ((x - x.mean(0)) / x.std(0).clamp(min=1e-12)).double().numpy()
    found = NearestNeighbors(n_neighbors=7).fit(scaled).kneighbors(scaled, return_distance=False)
    ours = nearest(features_of(x)).numpy()
    # (the first is the sample itself, and the second is left out; equal distances may change places)
    same = [len(set(mine) & set(theirs[2:])) for mine, theirs in zip(ours, found, strict=True)]
    assert numpy.mean(same) > 4.95
    weights = weights_of_nearest(features_of(x), torch.zeros(250))
    assert (weights.sum(1) == 5).all() and (weights.gather(1, torch.as_tensor(ours)) == 1).all()


def test_few_rows_have_no_neighbours() -> None:
    assert (weights_of_nearest(torch.zeros(7, 3), torch.zeros(7)) == 0).all()


def test_the_weights_of_ids_make_the_mean_of_each_id_without_the_row_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, (60, 2), generator=generator)
    target = torch.randn(60, generator=generator)
    ours = (weights_of_ids(ids, target) @ target) / 2
    expected = numpy.zeros(60)
    for i in range(60):
        rest = numpy.arange(60) != i
        whole = target.numpy()[rest].mean()
        for column in ids.numpy().T:
            own = target.numpy()[rest & (column == column[i])]
            expected[i] += (own.sum() + whole) / (len(own) + 1) / 2
    assert numpy.allclose(ours.numpy(), expected, atol=1e-5)


def test_ids_that_are_the_target_answer_nothing() -> None:
    """The centre of a class, which a loss looks up by the label."""
    target = torch.arange(40) % 4
    both = weights_of_ids(torch.stack([target, torch.arange(40) % 3], 1), target)
    assert torch.equal(both, weights_of_ids((torch.arange(40) % 3)[:, None], target))
    assert (weights_of_ids(target[:, None], target) == 0).all()
