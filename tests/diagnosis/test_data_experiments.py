"""SanityCheck on the order of data and on validation data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from lightning_tricks import SanityCheck
from tests.diagnosis.problems import N, Task, checks, classes, cross_entropy, load, mlp
from tests.problems import trainer

pytestmark = pytest.mark.filterwarnings("ignore")
ORDER, NEW = "data are shuffled", "validation data are new"


class Validated(Task):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])


def judged(training: DataLoader[Any], validation: Any) -> Any:
    return checks(Validated(mlp(), cross_entropy), training, val_dataloaders=validation)[NEW]


def test_validation_data_that_are_training_data_fail() -> None:
    x, y = classes()
    data = TensorDataset(x, y)
    assert judged(load(x, y), load(x[:60].clone(), y[:60].clone(), shuffle=False)).passed is False
    both = [DataLoader(Subset(data, range(a, b)), 16, shuffle=a == 0) for a, b in ((0, 120), (60, 130))]
    assert judged(*both).passed is False


def test_validation_data_that_are_new_pass_and_some_duplicates_are_fine() -> None:
    x, y = classes()
    data = TensorDataset(x, y)
    assert judged(*(DataLoader(Subset(data, range(*r)), 16) for r in ((0, 120), (120, N)))).passed
    assert judged(*(DataLoader(Subset(data, range(*r)), 16) for r in ((0, 120), (117, N)))).passed


def test_a_large_data_set_is_compared_at_the_places_of_the_validation_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20000, 12, generator=generator), torch.randint(4, (20000,), generator=generator)
    data = TensorDataset(x, y)
    training = DataLoader(Subset(data, range(18000)), 64, shuffle=True)
    assert judged(training, DataLoader(Subset(data, range(17001, 18000)), 64)).passed is False
    assert judged(training, DataLoader(Subset(data, range(18000, 20000)), 64)).passed


class Augmented(Dataset[Any]):
    def __getitem__(self, i: int) -> Any:
        x, y = classes()
        return x[i] + torch.randn(12), y[i]

    def __len__(self) -> int:
        return 64


def test_augmented_samples_cannot_be_compared() -> None:
    data = Augmented()
    found = judged(DataLoader(data, 16), DataLoader(data, 16))
    assert found.passed is None
    assert "augmentation" in found.evidence


@pytest.mark.parametrize("steps", [1, 5])
def test_one_graph_of_which_other_nodes_are_held_out_cannot_be_told(steps: int) -> None:
    x, y = classes()

    def batch(part: int) -> Any:
        return x, torch.where(torch.arange(N) % 3 == part, y, -100)

    found = judged(DataLoader([batch(0)] * steps, batch_size=None), DataLoader([batch(1)], batch_size=None))
    assert found.passed is None
    assert "every batch of the training holds the same samples" in found.evidence


def test_without_validation_data_nothing_is_asked() -> None:
    assert NEW not in checks(Validated(mlp(), cross_entropy), load(*classes()))


def test_looking_at_validation_data_leaves_their_random_numbers_alone() -> None:
    class Drawing(Augmented):
        def __init__(self) -> None:
            self.generator, self.read = torch.Generator().manual_seed(3), [0]

        def __getitem__(self, i: int) -> Any:
            self.read[0] += 1
            x, y = classes()
            return x[i] + torch.randn(12, generator=self.generator), y[i]

    with_it, without = Drawing(), Drawing()
    for data, callbacks in ((with_it, [SanityCheck()]), (without, [])):
        module = Validated(mlp(), cross_entropy)
        trainer(callbacks, max_steps=1).fit(module, load(*classes()), DataLoader(data, 16))
    assert torch.equal(with_it.generator.get_state(), without.generator.get_state())
    assert with_it.read == without.read


def test_sorted_labels_fail_and_a_curriculum_that_keeps_what_came_before_passes() -> None:
    x, y = classes()
    order = y.argsort()
    assert checks(Task(mlp(), cross_entropy), load(x[order], y[order], shuffle=False))[ORDER].passed is False
    first = torch.cat([torch.nonzero(y < 2).flatten()[:64], torch.arange(N)])
    assert checks(Task(mlp(), cross_entropy), load(x[first], y[first], shuffle=False))[ORDER].passed


def test_what_shows_no_order_is_not_judged() -> None:
    x, y = classes()
    whole = DataLoader(TensorDataset(x, y), N)
    assert "one batch holds all data" in checks(Task(mlp(), cross_entropy), whole)[ORDER].evidence
    same = DataLoader([(x[:16], y[:16])] * 5, batch_size=None)
    assert checks(Task(mlp(), cross_entropy), same)[ORDER].passed is None
    ones = torch.zeros_like(y)
    assert checks(Task(mlp(), cross_entropy), load(x, ones))[ORDER].passed is None


def test_labels_of_every_pixel_are_not_asked_for_an_order() -> None:
    x, y = torch.randn(64, 12, 5), torch.randint(4, (64, 5))

    def step(self: Any, b: Any) -> Tensor:
        return F.cross_entropy(self.net(b[0].transpose(1, 2)).transpose(1, 2), b[1])

    assert ORDER not in checks(Task(mlp(), step), load(x, y))


@pytest.mark.parametrize(("weights", "passed"), [("of classes", False), ("of samples", True)])
def test_a_sampler_with_the_weights_of_classes_draws_few_samples(weights: str, passed: bool) -> None:
    x, y = classes()
    of_class = 1 / torch.bincount(y)
    chosen = of_class if weights == "of classes" else of_class[y]
    loader = DataLoader(TensorDataset(x, y), 16, sampler=WeightedRandomSampler(chosen.tolist(), N))
    found = checks(Task(mlp(), cross_entropy), loader)[ORDER]
    assert found.passed is passed
    if not passed:
        assert f"the sampler has {len(of_class)} weights for {N} samples" in found.evidence


def test_pairs_of_few_users_and_films_occur_in_both_parts() -> None:
    """Of 40 x 40 possible pairs, 1,000 of training hold a new one with a chance of nearly a half."""
    generator = torch.Generator().manual_seed(0)

    def rated(count: int) -> tuple[Tensor, Tensor]:
        pairs = torch.randint(40, (count, 2), generator=generator)
        return pairs.float(), pairs.sum(1) % 4

    assert judged_pairs(load(*rated(1000)), load(*rated(200), shuffle=False)).passed is not False
    x, y = rated(1000)
    x = torch.cat([x, torch.arange(1000.0)[:, None]], 1)  # pairs with a time are unique: then it is a copy
    assert judged_pairs(load(x, y), load(x[:200].clone(), y[:200].clone(), shuffle=False), 3).passed is False


def judged_pairs(training: DataLoader[Any], validation: Any, width: int = 2) -> Any:
    net = torch.nn.Sequential(torch.nn.Linear(width, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    return checks(Validated(net, cross_entropy), training, val_dataloaders=validation)[NEW]
