from __future__ import annotations

import numpy
import pytest
import torch
from scipy import stats
from scipy.stats import chi2_contingency
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from lightning_tricks.diagnosis import sanity_data


def test_neighbours_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    x, y = bunch.data[:300], bunch.target[:300]
    model = KNeighborsClassifier(2, algorithm="brute").fit(x, y)
    nearest = model.kneighbors(x, return_distance=False)[:, 1]
    z, share = sanity_data.neighbours_agree(torch.tensor(x), torch.tensor(y))
    assert share == pytest.approx((y[nearest] == y).mean())
    assert z > 20
    shuffled = numpy.random.default_rng(0).permutation(y)
    assert abs(sanity_data.neighbours_agree(torch.tensor(x), torch.tensor(shuffled))[0]) < 3


def test_digits_have_a_structure_and_noise_has_none() -> None:
    digits = torch.tensor(load_digits().data[:400])
    noise = torch.randn(400, 20, generator=torch.Generator().manual_seed(0))
    correlated = noise @ torch.randn(20, 20, generator=torch.Generator().manual_seed(1))
    assert sanity_data.structure(digits) > 0.1
    assert abs(sanity_data.structure(noise)) < 0.05
    assert abs(sanity_data.structure(correlated)) < 0.05


def test_the_association_of_random_labels_is_a_standard_normal_number() -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        p = torch.randn(200, 4, generator=generator).softmax(1)
        found.append(sanity_data.association(p, torch.randint(4, (200,), generator=generator)))
    assert abs(numpy.mean(found)) < 0.2
    assert numpy.std(found) == pytest.approx(1.0, abs=0.12)


def test_a_weak_signal_on_many_samples_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (3000,), generator=generator)
    logits = torch.randn(3000, generator=generator) + 0.25 * labels
    p = torch.stack([-logits, logits], 1).softmax(1)
    assert sanity_data.association(p, labels) > 3


def test_labels_are_judged_from_neighbours_first() -> None:
    assert sanity_data.labels_follow(10.0, 0.9, 0.0, None).passed
    assert sanity_data.labels_follow(0.0, 0.1, 0.3, None).passed is None
    assert sanity_data.labels_follow(0.0, 0.1, 0.3, (40.0, 9.0)).passed
    assert sanity_data.labels_follow(0.0, 0.1, 0.3, (40.0, -0.2)).passed is False
    assert sanity_data.labels_follow(0.0, 0.1, 0.0, (40.0, -0.2)).passed is None  # (noise need not have labels)
    assert sanity_data.labels_follow(0.0, 0.1, 0.3, (1.0, -0.2)).passed is None  # (nothing was learned at all)


def test_the_test_of_homogeneity_is_that_of_scipy() -> None:
    table = torch.tensor([[30.0, 20, 50], [40, 45, 15]], dtype=torch.float64)
    assert sanity_data._differ(table) == pytest.approx(chi2_contingency(table.numpy()).pvalue, rel=1e-9)
    assert sanity_data._differ(torch.tensor([[5.0, 0.0], [7.0, 0.0]])) == 1.0
    assert sanity_data._differ(torch.tensor([[5.0, 2.0], [0.0, 0.0]])) == 1.0


def test_shuffled_data_pass_and_sorted_data_fail() -> None:
    labels = torch.randint(10, (2000,), generator=torch.Generator().manual_seed(0))
    in_order = labels.sort().values
    assert sanity_data.shuffled(list(labels.split(32)[:8]), labels).passed
    assert sanity_data.shuffled(list(in_order.split(32)[:8]), in_order).passed is False


def test_samplers_that_balance_classes_and_small_batches_of_many_classes_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    rare = (torch.rand(2000, generator=generator) < 0.01).long()
    balanced = [torch.randint(2, (32,), generator=generator) for _ in range(8)]
    assert sanity_data.shuffled(balanced, rare).passed
    many = torch.randint(200, (2000,), generator=generator)
    assert sanity_data.shuffled(list(many.split(4)[:8]), many).passed


def test_what_cannot_be_told_of_an_order_is_said() -> None:
    assert sanity_data.shuffled([torch.zeros(8).long()], torch.zeros(9).long()).passed is None
    pure = [torch.full((32,), c) for c in (0, 1, 2, 3, 0, 1, 2, 3)]
    found = sanity_data.shuffled(pure, torch.arange(4).repeat(50))
    assert found.passed is None
    assert "hardly more than one label" in found.evidence


def test_values_are_sorted_into_ranges_as_numpy_does() -> None:
    values, edges = torch.randn(50), torch.tensor([-1.0, 0.0, 0.5])
    assert sanity_data.in_classes(values, edges).tolist() == numpy.digitize(values, edges, right=True).tolist()


def test_windows_of_a_series_are_known() -> None:
    series = torch.randn(100, 2)
    assert sanity_data.overlapping(series.unfold(0, 12, 3).movedim(-1, 1))
    assert not sanity_data.overlapping(torch.randn(20, 12))
    assert not sanity_data.overlapping(torch.zeros(20, 12))


def test_rows_are_told_by_all_their_tensors() -> None:
    a = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    same, other = sanity_data.digests([a, torch.tensor([0, 1])])
    assert same != other
    assert sanity_data.digests([a, torch.tensor([0, 1])]) == [same, other]


def test_validation_fails_only_where_most_of_it_is_training_data() -> None:
    def judged(shared: int, n: int = 100, coverage: float = 1.0, repeats: float = 0.0) -> bool | None:
        training = [b"%d" % i for i in range(1000)]
        validation = training[:shared] + [b"new %d" % i for i in range(n - shared)]
        return sanity_data.validation_is_new(validation, training, coverage, repeats).passed

    assert judged(0)
    assert judged(5)
    assert judged(30) is None
    assert judged(90) is False
    assert judged(9, coverage=0.1) is False
    assert judged(90, repeats=0.5) is None


@pytest.mark.parametrize("count", [3, 8, 40])
def test_standard_errors_of_few_values_are_as_likely_as_student_says(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    for shift in (0.3, 1.0, 3.0):
        values = (torch.randn(count, generator=generator, dtype=torch.float64) + shift).tolist()
        found = sanity_data.standard_errors(values)
        t = stats.ttest_1samp(values, 0.0).statistic
        expected = stats.norm.isf(stats.t.sf(t, count - 1))
        assert found == pytest.approx(expected, rel=0.03, abs=0.03)
