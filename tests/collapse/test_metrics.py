from __future__ import annotations

import inspect
import math
import pickle
from typing import Any

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, r2_score
from torchmetrics import Metric

import lightning_tricks
from lightning_tricks import EffectiveRank, PredictionSkill, RepetitionRate
from lightning_tricks.collapse import generation, metrics, prediction, representation
from tests.collapse.problems import ALL, FEATURES, LATENT, NUMBERS, PAIRS, PREDICTIONS, data, make, parts


def test_every_metric_is_public() -> None:
    own = {
        n for n, c in vars(metrics).items() if inspect.isclass(c) and issubclass(c, Metric) and not n.startswith("_")
    }
    assert own - {"Metric"} == set(ALL)
    assert set(ALL) <= set(lightning_tricks.metrics.__all__)


@pytest.mark.parametrize("name", (*ALL, *LATENT))
def test_batches_of_any_size_give_the_value_of_all_at_once(name: str) -> None:
    whole, streamed = make(name), make(name)
    whole.update(*data(name))
    for part in parts(data(name), [1, 17, 30]):
        streamed.update(*part)
    torch.testing.assert_close(streamed.compute(), whole.compute(), rtol=1e-9, atol=1e-9)
    assert whole.compute().ndim == 0
    torch.testing.assert_close(pickle.loads(pickle.dumps(streamed)).compute(), whole.compute(), rtol=1e-9, atol=1e-9)
    streamed.reset()
    streamed.update(*data(name, seed=1))
    other = make(name)
    other.update(*data(name, seed=1))
    torch.testing.assert_close(streamed.compute(), other.compute(), rtol=1e-9, atol=1e-9)


WANTED = {
    "EffectiveRank": lambda x: representation.effective_rank(
        representation.spectrum(torch.cov(x.double().T, correction=0))
    ),
    "ParticipationRatio": lambda x: representation.participation_ratio(torch.cov(x.double().T, correction=0)),
    "Uniformity": representation.uniformity,
    "VendiScore": generation.vendi_score,
    "Alignment": representation.alignment,
    "Coverage": generation.coverage,
    "Density": generation.density,
    "Recall": generation.recall,
    "Precision": generation.precision,
    "PairwiseDistanceRatio": generation.pairwise_distance_ratio,
    "NearestDistanceRatio": generation.nearest_distance_ratio,
    "RepetitionRate": generation.repetition_rate,
}


@pytest.mark.parametrize("name", WANTED)
def test_a_metric_is_its_function(name: str) -> None:
    metric = make(name)
    metric.update(*data(name))
    torch.testing.assert_close(metric.compute().double(), WANTED[name](*data(name)).double(), rtol=1e-6, atol=1e-9)


def test_predictions_are_those_of_torch() -> None:
    logits, target = data("PredictionSkill")
    loss = torch.nn.functional.cross_entropy(logits.double(), target)
    labels = torch.bincount(target, minlength=4).double()
    share = logits.double().softmax(1)
    wanted = {
        "PredictionSkill": 1 - loss / prediction.entropy(labels / 60),
        "PredictionEntropy": torch.distributions.Categorical(share).entropy().mean() / torch.tensor(4.0).log(),
    }
    for name, value in wanted.items():
        metric = make(name)
        metric.update(logits, target)
        torch.testing.assert_close(metric.compute(), value, rtol=1e-6, atol=0)
    shares = lightning_tricks.ClassShare(4)
    shares.update(logits, target)
    torch.testing.assert_close(shares.predicted_share, logits.argmax(1).bincount(minlength=4) / 60.0, check_dtype=False)
    torch.testing.assert_close(shares.label_share, labels / 60)
    assert 1 <= shares.num_predicted <= 4


@pytest.mark.parametrize("name", PREDICTIONS)
def test_ignored_targets_do_not_count_and_tokens_are_samples(name: str) -> None:
    logits, target = data(name)
    plain, padded = make(name), make(name)
    plain.update(logits, target)
    more = torch.cat([target, torch.full((4,), -100)]).reshape(8, 8)
    padded.update(torch.cat([logits, torch.randn(4, 4)]).reshape(8, 8, 4), more)
    torch.testing.assert_close(padded.compute(), plain.compute())


@pytest.mark.parametrize("name", [*FEATURES, *PREDICTIONS, *PAIRS, *LATENT, "Uniformity", "VendiScore", "Alignment"])
def test_an_update_reads_nothing_on_the_host(name: str) -> None:
    from benchmarks.overhead import Reads

    metric = make(name)
    with Reads() as reads:
        metric.update(*data(name))
    assert reads.count == 0


def test_padding_may_hold_anything() -> None:
    logits, target = data("PredictionSkill")
    plain, padded = PredictionSkill(4), PredictionSkill(4)
    plain.update(logits, target)
    nonsense = torch.full((3, 4), float("nan"))
    padded.update(torch.cat([logits, nonsense]), torch.cat([target, torch.full((3,), -100)]))
    torch.testing.assert_close(padded.compute(), plain.compute())


def test_a_step_value_and_the_value_of_the_epoch_both_come_from_forward() -> None:
    for name in ("EffectiveRank", "Uniformity", "ClassShare"):
        metric, whole, last = make(name), make(name), make(name)
        for part in parts(data(name), [30]):
            step = metric(*part)
        whole.update(*data(name))
        last.update(*part)
        torch.testing.assert_close(metric.compute(), whole.compute())
        torch.testing.assert_close(step, last.compute())


def test_labels_of_one_class_are_reported_and_not_divided_by() -> None:
    for name in ("PredictionSkill", "InputDependence"):
        metric = make(name)
        metric.update(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))
        assert metric.compute().isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_added_up_in_float64(dtype: torch.dtype) -> None:
    metric, wanted = EffectiveRank(6), EffectiveRank(6)
    (features,) = data("EffectiveRank", 2000)
    metric.update(features.to(dtype))
    wanted.update(features)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(wanted.compute().item(), rel=0.02)


def test_features_keep_no_graph_and_no_samples() -> None:
    metric = EffectiveRank(6)
    (features,) = data("EffectiveRank", 500)
    metric.update(features.requires_grad_())
    held = sum(t.numel() for t in metric.metric_state.values())
    assert held == 6 * 6 + 6 + 1
    assert not any(t.requires_grad for t in metric.metric_state.values())


@pytest.mark.parametrize("name", ALL)
def test_a_pickled_metric_goes_on(name: str) -> None:
    metric = make(name)
    metric.update(*data(name))
    twin = pickle.loads(pickle.dumps(metric))
    for each in (metric, twin):
        each.update(*data(name, seed=3))
    torch.testing.assert_close(twin.compute(), metric.compute())


def test_fingerprints_survive_their_way_through_float32() -> None:
    grams = torch.randint(-(2**40), 2**40, (5000, 4), generator=torch.Generator().manual_seed(0))
    prints = metrics._hash(grams)
    assert torch.equal(metrics._fingerprints(metrics._pieces(prints)), prints)
    assert len(prints.unique()) == 5000
    assert len(metrics._hash(torch.tensor([[1, 2], [2, 1], [0, 1], [1, 0], [0, 0]])).unique()) == 5


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: EffectiveRank(1), "num_features must be a whole number >= 2"),
        (lambda: PredictionSkill(0), "num_classes must be a whole number >= 2"),
        (lambda: lightning_tricks.metrics.Coverage(0), "k must be a whole number >= 1"),
        (lambda: RepetitionRate(0), "n must be a whole number >= 1"),
        (lambda: EffectiveRank(4).update(torch.zeros(2, 3)), r"the last dimension must be 4.*EffectiveRank\(3\)"),
        (lambda: PredictionSkill(3).update(torch.zeros(2, 3), torch.zeros(5)), "2 predictions, target 5"),
        (lambda: lightning_tricks.metrics.Alignment().update(torch.zeros(2, 3), torch.zeros(2, 4)), "two views"),
        (lambda: lightning_tricks.metrics.Coverage().compute(), "0 generated samples were given, at least 6"),
    ],
    ids=range(8),
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_bad_input_is_named(use: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        use()


def test_samples_of_another_shape_are_refused() -> None:
    metric = lightning_tricks.metrics.Uniformity()
    metric.update(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="2 numbers each, those before had 3"):
        metric.update(torch.zeros(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1e3])
@pytest.mark.parametrize("batches", [1, 40])
def test_equal_rows_have_no_dimension(dtype: torch.dtype, mean: float, batches: int) -> None:
    """Sums of squares leave rounding where nothing varies, and rounding has a rank like any noise (24 of 64 once)."""
    torch.manual_seed(0)
    for d in (2, 16, 64):
        row = (torch.randn(1, d) + mean).to(dtype)
        for name, expected in (("EffectiveRank", 0.0), ("ParticipationRatio", 0.0), ("DeadDimensions", 1.0)):
            metric = getattr(lightning_tricks, name)(d)
            for n in torch.arange(batches):
                metric.update(row.expand(5 + int(n), d))
            assert float(metric.compute()) == expected


@pytest.mark.parametrize("std", [1e-2, 1e-4, 1e-5])
def test_a_small_spread_beside_a_large_mean_still_counts(std: float) -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 2, dtype=torch.float64)).Q
    rows = 1.0 + std * torch.randn(300, 2, dtype=torch.float64) @ basis.T
    sigma = torch.linalg.svdvals(rows - rows.mean(0))[:2]
    share, variance = sigma / sigma.sum(), sigma.square()
    rank, ratio, dead = EffectiveRank(12), lightning_tricks.ParticipationRatio(12), lightning_tricks.DeadDimensions(12)
    for metric in (rank, ratio, dead):
        for part in rows.split(30):
            metric.update(part)
    assert float(rank.compute()) == pytest.approx(float(torch.special.entr(share).sum().exp()), rel=1e-3)
    assert float(ratio.compute()) == pytest.approx(float(variance.sum() ** 2 / variance.square().sum()), rel=1e-3)
    spread = rows.std(0, correction=0)
    assert float(dead.compute()) == float((spread < 0.01 * spread.max()).double().mean())


def test_the_balanced_skill_is_scikit_learns_adjusted_balanced_accuracy() -> None:
    logits, target = data("BalancedSkill", n=200)
    metric = make("BalancedSkill")
    metric.update(logits, target)
    wanted = balanced_accuracy_score(target.numpy(), logits.argmax(1).numpy(), adjusted=True)
    assert float(metric.compute()) == pytest.approx(wanted)


def test_several_labels_are_as_many_binary_skills() -> None:
    logits, target = data("MultilabelSkill", n=200)
    metric = make("MultilabelSkill")
    metric.update(logits, target)
    losses, best = [], []
    for k in range(4):
        p = logits[:, k].double().sigmoid().numpy()
        losses.append(log_loss(target[:, k].numpy(), p))
        q = float(target[:, k].double().mean())
        best.append(-(q * math.log(q) + (1 - q) * math.log(1 - q)))
    wanted = [1 - a / b for a, b in zip(losses, best, strict=True)]
    assert metric.per_label.tolist() == pytest.approx(wanted)
    assert float(metric.compute()) == pytest.approx(1 - sum(losses) / sum(best))
    constant = lightning_tricks.MultilabelSkill(2)
    constant.update(torch.zeros(5, 2), torch.tensor([[0.0, 1.0]] * 5))
    assert constant.compute().isnan(), "labels that are constant have nothing to predict"


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_a_regression_has_scikit_learns_r_squared_also_far_from_zero(shift: float) -> None:
    output, target = data("RegressionSkill", n=200)
    skill, ratio = lightning_tricks.RegressionSkill(4), lightning_tricks.SpreadRatio(4)
    for metric in (skill, ratio):
        metric.update(output.double() + shift, target.double() - 1e4 + shift)
    one, two = output.double().numpy(), target.double().numpy() - 1e4
    wanted = r2_score(two, one, multioutput="variance_weighted")
    assert float(skill.compute()) == pytest.approx(wanted, abs=1e-5)
    assert float(ratio.compute()) == pytest.approx(one.var(0).sum() / two.var(0).sum(), rel=1e-4)


def test_constant_predictions_have_no_spread_and_constant_targets_no_skill() -> None:
    skill, ratio = lightning_tricks.RegressionSkill(), lightning_tricks.SpreadRatio()
    for metric in (skill, ratio):
        metric.update(torch.full((9,), 3.3), torch.arange(9.0))
    assert ratio.compute() == 0.0
    assert float(skill.compute()) < 0.0
    for metric in (skill, ratio):
        metric.reset()
        metric.update(torch.arange(9.0), torch.full((9,), 3.3))
        assert metric.compute().isnan()


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_other_shapes_are_not_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match=r"have the shape \(5, 4\), and are not broadcast"):
        make(name).update(torch.zeros(5, 4), torch.zeros(5))
    with pytest.raises(ValueError, match="the last dimension must be 4"):
        make(name).update(torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="must be a whole number >= 1"):
        getattr(lightning_tricks, name)(0)
