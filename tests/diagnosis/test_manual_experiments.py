"""SanityCheck on modules that make their own updates: adversarial, alternating, accumulating, and what goes wrong there."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_tricks import SanityCheck, UnsupportedError
from tests.diagnosis.problems import D, checks, classes, load
from tests.problems import trainer

pytestmark = pytest.mark.filterwarnings("ignore")


class Adversarial(L.LightningModule):
    """A small GAN with two optimizers; ``faults`` says what is wrong with it."""

    def __init__(self, *faults: str, every: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.faults, self.every = faults, every
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, D))
        self.critic = nn.Sequential(nn.Linear(D, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = torch.randn_like(batch[0]) if "no data" in self.faults else batch[0]
        of_generator, of_critic = self.optimizers()  # type: ignore[misc]
        if "eval" in self.faults:
            self.generator.eval()
        fake = self.generator(torch.randn(len(real), 4, device=self.device))
        told = F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake.detach())).mean()
        self._updated(of_critic, told)
        if batch_idx % self.every == 0:
            seen = self.critic(fake.detach() if "detached" in self.faults else fake)
            self._updated(of_generator, F.softplus(-seen).mean())

    def _updated(self, optimizer: Any, loss: Tensor) -> None:
        if "kept" not in self.faults:
            optimizer.zero_grad()
        self.manual_backward(loss)
        if "no step" not in self.faults:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        held = list(self.generator.parameters())
        held = held[2:] if "forgotten" in self.faults else held
        return [torch.optim.Adam(held, lr=1e-3), torch.optim.Adam(self.critic.parameters(), lr=1e-3)]


def asked(*faults: str, **more: Any) -> dict[str, Any]:
    return dict(checks(Adversarial(*faults, **more), load(*classes())))


@pytest.mark.parametrize("every", [1, 5])
def test_a_sound_one_passes_everything(every: int) -> None:
    found = asked(every=every)
    assert set(found) == {"inputs matter", "all parameters learn", "modules are in training mode"}
    assert all(check.passed for check in found.values())


@pytest.mark.parametrize(
    ("fault", "row", "passed", "evidence"),
    [
        ("no data", "inputs matter", False, "the weights are the same with a batch of zeros"),
        ("no step", "all parameters learn", False, "no parameter changes in 12 steps"),
        ("kept", "all parameters learn", False, "gradients are never cleared between updates"),
        ("forgotten", "all parameters learn", False, "in no optimizer: generator.0.weight, generator.0.bias"),
        ("detached", "all parameters learn", None, "12 steps do not change generator.0.weight"),
        ("eval", "modules are in training mode", False, "generator.1"),
    ],
)
def test_what_is_wrong_is_named(fault: str, row: str, passed: bool | None, evidence: str) -> None:
    found = asked(fault)[row]
    assert found.passed is passed
    assert evidence in found.evidence


class Byol(L.LightningModule):
    """An encoder, a predictor of what its slow copy says, and one optimizer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.way = way
        self.encoder = nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        self.predictor, self.spare = nn.Linear(8, 8), nn.Linear(8, 8)
        self.slow = deepcopy(self.encoder).requires_grad_(False)
        if way == "trained before":
            with torch.no_grad():
                for p in self.encoder.parameters():
                    p.add_(torch.randn_like(p).exp())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        z = self.encoder(batch[0] + 0.1 * torch.randn_like(batch[0]))
        p = self.predictor(z if self.way == "whole" else z.detach())
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(-F.cosine_similarity(p, self.slow(batch[0])).mean())
        optimizer.step()

    def configure_optimizers(self) -> Any:
        # (that of the spare layer, whose turn has not come, is no matter of the others)
        return torch.optim.Adam([p for n, p in self.named_parameters() if not n.startswith("slow")], lr=1e-3)


@pytest.mark.parametrize(("way", "passed"), [("whole", None), ("detached", False), ("trained before", None)])
def test_an_encoder_as_new_that_is_cut_off_from_its_predictor_is_a_fault(way: str, passed: bool | None) -> None:
    found = checks(Byol(way), load(*classes()))["all parameters learn"]
    assert found.passed is passed
    assert "spare" not in found.evidence or way == "whole"


def test_a_generator_that_is_updated_seldom_is_no_fault() -> None:
    found = asked(every=100)["all parameters learn"]
    assert found.passed  # (the first batch is one)


def trained(callbacks: list[Any], **arguments: Any) -> Adversarial:
    module = Adversarial()
    L.seed_everything(3, verbose=False)
    trainer(callbacks, max_steps=10, **arguments).fit(module, load(*classes()))
    return module


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_afterwards(precision: Any) -> None:
    check = SanityCheck()
    alone, watched = trained([], precision=precision), trained([check], precision=precision)
    assert check.checks
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


class Accumulating(L.LightningModule):
    """Steps at every fourth batch, with an optimizer that is asked for by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Linear(D, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.manual_backward(loss / 4)
        if batch_idx % 4 == 3:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_gradients_that_are_gathered_over_some_batches_are_not_kept() -> None:
    found = checks(Accumulating(), load(*classes()))
    assert found["inputs matter"].passed and found["all parameters learn"].passed


class Reinforced(Accumulating):
    """A policy that draws its own data, with a loader of counts."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        states = torch.randn(16, D)
        return super().training_step((states, (states[:, 0] > 0).long()), batch_idx)


def test_what_draws_its_own_data_is_not_asked_for_its_batches() -> None:
    found = checks(Reinforced(), load(torch.arange(64), shuffle=False))["inputs matter"]
    assert found.passed is None and found.evidence == "the batch holds nothing that could"


def test_what_cannot_be_tried_is_a_warning_and_an_error_only_for_who_asks_for_a_gate() -> None:
    class ByHand(Accumulating):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    module, data = ByHand(), load(*classes())
    with pytest.warns(UserWarning, match="SanityCheck: not run: SanityCheck does not work with LBFGS"):
        trainer([SanityCheck()], max_steps=1, max_epochs=1).fit(module, data)
    with pytest.raises(UnsupportedError, match="does not work with LBFGS"):
        trainer([SanityCheck(on_failure="raise")], max_epochs=1).fit(ByHand(), data)


def test_names_beside_the_tensors_of_a_batch_do_not_keep_it_from_being_asked() -> None:
    class Named(Accumulating):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch[:2], batch_idx)

    x, y = classes()
    rows: Any = [(row, label, "name") for row, label in zip(x, y, strict=True)]
    assert checks(Named(), DataLoader(rows, 16))["inputs matter"].passed
