from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import PosteriorCollapse, TrickError
from tests.problems import digits, trainer

Spread = Callable[[int], float]


class Said(nn.Module):
    """Returns what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Scripted(L.LightningModule):
    """A posterior whose means are spread by a function of the number of the batch; it learns nothing."""

    def __init__(self, spread: Spread, log_variance: float = 0.0, offset: float = 0.0, d: int = 4) -> None:
        super().__init__()
        self.mean, self.log_variance, self.both = Said(), Said(), Said()
        self.weight, self.calls = nn.Parameter(torch.zeros(())), 0
        self.spread, self.value, self.offset, self.d = spread, log_variance, offset, d
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        n = len(batch[0])
        mean = self.spread(self.calls) * torch.randn(n, self.d) + self.offset
        log_variance = torch.full((n, self.d), self.value)
        self.seen.append((mean, log_variance))
        self.mean(mean), self.log_variance(log_variance), self.both(torch.cat([mean, log_variance], 1))
        self.calls += 1
        return self.weight * 0.0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def watched(
    module: L.LightningModule, names: tuple[str, str] = ("mean", "log_variance"), batches: int = 40, **more: Any
) -> tuple[PosteriorCollapse, list[Any]]:
    """Return the detector after a run, and its alarms."""
    alarms: list[Any] = []
    arguments = {"every_n_steps": 2, "patience": 2, "grace": 0, "action": alarms.append, **more}
    detector = PosteriorCollapse(*names, **arguments)
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.zeros(batches * 128, 1)), batch_size=128)
    trainer([detector]).fit(module, data)
    return detector, alarms


def test_the_divergence_is_that_of_torch_over_the_batches_before_the_check() -> None:
    module = Scripted(lambda i: 0.2 * i, log_variance=-1.0)
    detector, _ = watched(module, every_n_steps=6)
    step, values = detector.history[1]
    assert step == 11
    mean, log_variance = (torch.cat(x) for x in zip(*module.seen[8:12], strict=True))  # 512 rows
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean(0)
    assert values["kl"] == pytest.approx(float(wanted.sum()), rel=1e-4)
    assert values["largest_mean_variance"] == pytest.approx(float(mean.var(0, correction=0).max()), rel=1e-4)
    assert values["active_units"] == 4.0
    assert values["posterior_variance"] == pytest.approx(math.exp(-1.0), rel=1e-5)


def test_one_module_may_return_both() -> None:
    two, one = (watched(Scripted(lambda i: 1.0), names)[0] for names in [("mean", "log_variance"), ("both", "both")])
    assert one.history == two.history


def test_maps_of_latent_variables_are_split_and_counted_by_channel() -> None:
    class Maps(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.both(torch.cat([torch.randn(128, 3, 2, 2), torch.zeros(128, 3, 2, 2)], 1))
            return self.weight * 0.0

    detector, _ = watched(Maps(lambda i: 1.0), ("both", "both"))
    values = detector.history[-1][1]
    assert values["active_units"] == 3.0 and values["kl"] == pytest.approx(1.5, rel=0.2)


# -- alarms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Scripted(lambda i: 0.01), "nats in all 4 dimensions of mean"),
        (Scripted(lambda i: 0.01, log_variance=-3.0), "the posterior of mean is the same for all inputs"),
        (Scripted(lambda i: 0.01, offset=2.0), "the posterior of mean is the same for all inputs"),
    ],
)
def test_latent_variables_that_carry_nothing_are_noticed(module: Scripted, reason: str) -> None:
    _, alarms = watched(module)
    assert [a.cause for a in alarms] == ["posterior collapse"]
    assert reason in alarms[0].reasons[0] and alarms[0].reasons[1] == "0 of 4 units are active"
    assert len(alarms[0].advice) == 3


def test_a_fall_from_a_peak_is_a_collapse_once_no_unit_is_clearly_active() -> None:
    def spread(after: float) -> Spread:
        return lambda i: 6.0 if i < 10 else after

    fell = watched(Scripted(spread(0.25)))[1]  # KL 4 x 0.03 after 4 x 18
    assert "at its highest" in fell[0].reasons[0] and 10 <= fell[0].since_step <= 13
    assert not watched(Scripted(spread(0.6)))[1], "KL 4 x 0.18, and all units active: the weight has risen"


def test_a_posterior_that_rises_is_left_alone() -> None:
    assert not watched(Scripted(lambda i: 0.01 * 1.15**i), batches=60)[1]
    assert watched(Scripted(lambda i: 0.01 * 1.001**i), batches=60)[1], "not to be seen"


def test_few_active_units_of_many_are_health() -> None:
    class Few(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            mean = torch.randn(128, 64) * (torch.arange(64) < 2)
            self.mean(mean), self.log_variance(torch.zeros(128, 64))
            return self.weight * 0.0

    detector, alarms = watched(Few(lambda i: 0.0))
    assert detector.history[-1][1]["active_units"] == 2.0 and not alarms


def test_outputs_that_are_not_finite_are_named() -> None:
    _, alarms = watched(Scripted(lambda i: 1.0, log_variance=math.inf))
    assert [a.cause for a in alarms] == ["non-finite values"]


class Autoencoder(L.LightningModule):
    """A small variational autoencoder of handwritten digits."""

    def __init__(self, weight: Callable[[float], float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = weight
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        mean, log_variance = self.encoder(batch[0]).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean()
        part = self.global_step / self.trainer.estimated_stepping_batches
        return 32 * (self.decoder(z) - batch[0]).square().sum(1).mean() + self.weight(part) * kl

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 2e-3)


@pytest.mark.parametrize(
    ("weight", "alarmed"),
    [
        (lambda part: 1.0, False),
        (lambda part: min(1.0, 2 * part), False),  # annealed once
        (lambda part: min(1.0, 2 * (4 * part % 1)), False),  # in cycles
        (lambda part: 60.0, True),
        (lambda part: 60.0 * min(1.0, 2 * part), True),
    ],
    ids=["healthy", "annealed", "cycles", "too heavy", "annealed to too much"],
)
def test_annealing_is_told_from_collapse_in_a_real_autoencoder(weight: Callable[[float], float], alarmed: bool) -> None:
    alarms: list[Any] = []
    detector = PosteriorCollapse("encoder", "encoder", every_n_steps=15, action=alarms.append)
    trainer([detector], max_epochs=12).fit(Autoencoder(weight), DataLoader(digits(1792), batch_size=64))
    assert [a.cause for a in alarms] == (["posterior collapse"] if alarmed else [])


# -- names and state -------------------------------------------------------------------------------------------------


def test_what_cannot_be_a_posterior_is_refused_at_the_first_batch() -> None:
    class Odd(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.mean(torch.zeros(8, 3)), self.log_variance(torch.zeros(8, 2)), self.both(torch.zeros(8))
            return self.weight * 0.0

    with pytest.raises(TrickError, match=r"log_variance='log_variance'.*rows \(8, 2\) do not fit a mean of \(8, 3\)"):
        watched(Odd(lambda i: 1.0))
    with pytest.raises(TrickError, match=r"its output \(8, 3\) cannot be split into two halves"):
        watched(Odd(lambda i: 1.0), ("mean", "mean"))
    with pytest.raises(TrickError, match=r"its output \(\(8,\)\) holds no features \[n, d\]"):
        watched(Odd(lambda i: 1.0), ("both", "both"))


def test_a_module_that_is_not_called_is_refused() -> None:
    class Silent(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.mean(torch.zeros(8, 3))
            return self.weight * 0.0

    with pytest.raises(TrickError, match=r"log_variance='log_variance'\): it was not called in the first"):
        watched(Silent(lambda i: 1.0))


def test_a_resumed_run_measures_and_judges_as_the_whole_one(tmp_path: Any) -> None:
    def part(epochs: int, start: Any = None) -> PosteriorCollapse:
        class Fixed(Scripted):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                torch.manual_seed(self.trainer.global_step)
                return super().training_step(batch, batch_idx)

        detector = PosteriorCollapse("mean", "log_variance", every_n_steps=3, patience=5, grace=0, action="log")
        t = trainer([detector], max_epochs=epochs)
        data = DataLoader(TensorDataset(torch.zeros(5 * 128, 1)), batch_size=128)
        t.fit(Fixed(lambda i: 0.01), data, ckpt_path=start)
        t.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return detector

    whole, first = part(4), part(1)
    torch.load(tmp_path / "1.ckpt", weights_only=True)
    resumed = part(4, tmp_path / "1.ckpt")
    assert resumed.history == whole.history[len(first.history) :]
    assert resumed.verdict == whole.verdict and whole.verdict.alarmed


def test_a_figure_shows_the_divergence_of_each_dimension() -> None:
    detector, _ = watched(Scripted(lambda i: 1.0))
    draw = detector.figure()
    assert draw is not None
    left, right = draw().axes
    assert len(left.patches) == 4 and left.get_title() == "posterior of mean"
    assert [line.get_label() for line in right.lines] == ["kl", "active units", "largest mean variance"]
