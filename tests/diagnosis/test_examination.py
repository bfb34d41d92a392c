from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import SanityCheck
from tests.problems import Classifier, digits, trainer


class Net(L.LightningModule):
    """A network on digits with one thing that may be wrong."""

    def __init__(self, fault: str = "", lr: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fault, self.lr = fault, lr
        norm = nn.BatchNorm1d(64) if fault in ("", "batch norm") else nn.Identity()
        self.net = nn.Sequential(nn.Linear(64, 64), norm, nn.ReLU(), nn.Linear(64, 10))
        if fault == "dead":
            nn.init.constant_(self.net[0].bias, -50.0)
        if fault == "saturated":
            self.net[2] = nn.Sigmoid()
            nn.init.constant_(self.net[0].bias, 50.0)
        if fault == "large":
            self.net[3].weight.data.mul_(100)
        if fault == "unused":
            self.spare = nn.Linear(3, 3)
        if fault == "frozen":
            self.net[0].requires_grad_(False)
        if fault == "zero gradient":
            self.net.append(nn.Identity())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if self.fault == "ignored":
            x = x * 0
        if self.fault == "leak":
            x = x - x.mean(0, keepdim=True)
        logits = self.net(x)
        if self.fault == "detached":
            logits = self.net[3](self.net[:3](x).detach())
        if self.fault == "nan":
            logits = logits / 0
        self.log("loss", logits.sum())
        return F.cross_entropy(logits, y)

    def configure_optimizers(self) -> Any:
        if self.fault == "forgotten":
            return torch.optim.SGD(self.net[3].parameters(), lr=self.lr)
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)


def loader(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda x, y: (x, y)) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*change(*digits(1280).tensors)), batch_size=64, shuffle=True)


def marks(module: Any, data: Any = None, **arguments: Any) -> dict[str, Any]:
    check = SanityCheck(**arguments)
    trainer([check], max_steps=1).fit(module, loader() if data is None else data)
    return {c.name: c for c in check.checks}


pytestmark = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")


def test_a_sound_training_passes_everything() -> None:
    found = marks(Net())
    assert {c.mark for c in found.values()} == {"pass"}, found
    assert len(found) == 9
    assert "BatchNorm (net.1), which is meant to" in found["samples do not leak"].evidence


@pytest.mark.parametrize(
    ("fault", "failed", "words"),
    [
        ("ignored", "inputs matter", "outputs change by 0"),
        ("leak", "samples do not leak", "in eval mode"),
        ("dead", "units are alive", "of net.2 are dead"),
        ("saturated", "units are alive", "of net.2 are saturated"),
        ("detached", "all parameters learn", "no gradient, though the loss depends on them: net.0.weight, net.0.bias"),
        ("forgotten", "all parameters learn", "in no optimizer: net.0.weight, net.0.bias"),
        ("nan", "initial loss", "it is nan"),
    ],
)
def test_each_fault_is_found_and_named(fault: str, failed: str, words: str) -> None:
    check = marks(Net(fault), overfit_batch=False)[failed]
    assert check.mark == "FAIL"
    assert words in f"{check.evidence} {check.fix}"


@pytest.mark.parametrize(("lr", "mark"), [(1e-6, "FAIL"), (0.1, "?")])
def test_a_large_first_loss_is_a_fault_where_training_does_not_bring_it_down_at_once(lr: float, mark: str) -> None:
    found = marks(Net("large", lr), overfit_batch=False)["initial loss"]
    assert found.mark == mark
    assert "scale the last layer down" in found.fix


def test_parameters_that_take_no_part_are_named_and_no_fault() -> None:
    found = marks(Net("unused"), overfit_batch=False)["all parameters learn"]
    assert found.mark == "?"
    assert found.evidence == "no gradient: spare.weight, spare.bias"


def test_frozen_parameters_are_named_and_no_fault() -> None:
    module = Net("frozen")
    with torch.no_grad():  # (not as a new layer is: it was trained somewhere else)
        module.net[0].weight.mul_(torch.linspace(0.5, 3.0, module.net[0].weight.shape[1]))
    found = marks(module, overfit_batch=False)["all parameters learn"]
    assert found.mark == "pass"
    assert found.evidence.endswith("frozen: net.0.weight, net.0.bias")


def test_frozen_layers_that_are_as_new_ones_are_asked_about() -> None:
    found = marks(Net("frozen"), overfit_batch=False)["all parameters learn"]
    assert found.mark == "?" and found.evidence.startswith("frozen, and as new layers are: net.0")


def test_shuffled_labels_are_found() -> None:
    def shuffle(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]

    assert marks(Net(), loader(shuffle))["labels follow from inputs"].mark == "FAIL"


def test_labels_that_neighbours_do_not_show_are_told_by_a_short_training() -> None:
    def parity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(x), 64, generator=generator)
        label = (noise[:, 0] > 0).long()
        return noise, label

    found = marks(Net(lr=0.3), loader(parity))["labels follow from inputs"]
    assert found.mark == "pass"


def test_a_rate_that_is_too_low_is_told_from_a_model_that_cannot_learn() -> None:
    found = marks(Net(lr=1e-3))["overfits one batch"]
    assert found.mark in ("FAIL", "?")
    assert "times the learning rate it does" in found.fix


class Regression(L.LightningModule):
    def __init__(self, squeeze: bool) -> None:
        super().__init__()
        self.net, self.squeeze = nn.Linear(64, 1), squeeze

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        out = self.net(batch[0])
        return F.mse_loss(out.squeeze(1) if self.squeeze else out, batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("squeeze", [True, False])
def test_a_regression_is_checked_for_broadcasting(squeeze: bool) -> None:
    found = marks(Regression(squeeze), loader(lambda x, y: (x, y.float() / 10)))
    assert ("shapes of outputs and labels" in found) is not squeeze
    assert found["initial loss"].mark in ("pass", "?")


def test_tokens_in_one_tensor_say_what_cannot_be_asked() -> None:
    class Language(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self.net(batch[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.05)

    data = DataLoader(torch.randint(20, (256, 12)), batch_size=32)  # type: ignore[arg-type]
    found = marks(Language(), data)
    assert found["overfits one batch"].mark in ("pass", "?", "FAIL")
    assert found["initial loss"].mark == "pass"


@pytest.mark.parametrize("name", ["initial_loss", "overfit_batch", "input_matters", "sample_independence"])
def test_experiments_can_be_left_out(name: str) -> None:
    assert len(marks(Net(), **{name: False})) < 9


# -- what a tensor of a batch is for ----------------------------------------------------------------------------------


class Asked(L.LightningModule):
    """Takes its batch apart in a way that names and types do not show."""

    def __init__(self, split: Callable[[Any], tuple[Tensor, Tensor]], out: int = 10, shuffles: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.split, self.shuffles = (
            nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, out)),
            split,
            shuffles,
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.split(batch)
        if self.shuffles:
            order = torch.randperm(len(x))
            x, y = x[order], y[order]
        return F.cross_entropy(self.net(x), y) if self.net[2].out_features > 1 else F.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Hidden:
    """An object that no tree of tensors shows, as chemprop's batches of molecules."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


def rows(make: Callable[[Tensor, Tensor], Any], collate: Any = None) -> DataLoader[Any]:
    data = [make(x, y) for x, y in digits(320)]
    return DataLoader(data, batch_size=32, collate_fn=collate)


def test_labels_that_come_first_or_beside_other_numbers_are_found() -> None:
    """As pytorch-tabular: the target first, whole numbers that are inputs after it."""
    data = rows(lambda x, y: {"target": y.reshape(1), "continuous": x[:60], "categorical": (x[60:] > 0.5).long()})
    module = Asked(lambda b: (torch.cat([b["continuous"], b["categorical"].float()], 1), b["target"].squeeze(1)))
    found = marks(module, data, overfit_batch=False)
    assert {name: found[name].mark for name in ("initial loss", "inputs matter", "samples do not leak")} == {
        "initial loss": "pass",
        "inputs matter": "pass",
        "samples do not leak": "pass",
    }
    assert "10 classes" in found["initial loss"].evidence


def test_inputs_that_cannot_be_seen_are_not_judged_by_what_lies_beside_them() -> None:
    """As chemprop: the molecules are in an object, and weights of the loss beside them."""

    def collate(found: Any) -> Any:
        x, y = torch.stack([x for x, _ in found]), torch.stack([y for _, y in found])
        return Hidden(x), torch.ones(len(y), 1), y.float().reshape(-1, 1)

    class Weighted(Asked):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            hidden, weight, y = batch
            return (weight * (self.net(hidden.x) - y).square()).mean()

    data = rows(lambda x, y: (x, y), collate)
    found = marks(Weighted(lambda b: b, out=1), data, overfit_batch=False)
    assert (found["inputs matter"].mark, found["samples do not leak"].mark) == ("?", "?")
    assert "no tensor of the batch was found that is an input" in found["inputs matter"].evidence


def test_labels_that_nothing_depends_on_say_nothing() -> None:
    """As datasets of images for self-supervision: every label is 0, and the loss does not look at it."""

    class Selfish(Asked):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            z = F.normalize(self.net(batch[0]), dim=1)
            return (z @ z.T).square().mean()

    found = marks(Selfish(lambda b: b), rows(lambda x, y: (x, torch.tensor(0))))
    assert "labels follow from inputs" not in found
    assert "no labels were found" in found["initial loss"].evidence
    assert found["inputs matter"].mark == "pass"


@pytest.mark.parametrize("leaks", [False, True])
def test_a_module_that_shuffles_its_batch_mixes_no_samples(leaks: bool) -> None:
    """As MoCo, which shuffles the teacher's batch: the rows of the output belong to other samples."""

    def split(batch: Any) -> Any:
        x, y = batch
        return (x - x.mean(0, keepdim=True) if leaks else x), y

    found = marks(Asked(split, shuffles=True), overfit_batch=False)
    assert found["samples do not leak"].mark == ("FAIL" if leaks else "pass")


def test_a_module_with_a_memory_is_asked_from_the_same_state_each_time() -> None:
    """As a queue of embeddings: two answers to one batch differ, without any change to it."""

    class Queue(Asked):
        def __init__(self) -> None:
            super().__init__(lambda b: b)
            self.register_buffer("queue", torch.zeros(64, 64))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            logits = self.net(x + 0.1 * self.queue.mean(0))  # type: ignore[operator]
            self.queue = torch.cat([self.queue, x])[-64:].detach()  # type: ignore[list-item]
            return F.cross_entropy(logits, y)

    found = marks(Queue(), rows(lambda x, y: (x, y)))
    assert "10 classes" in found["initial loss"].evidence
    assert "labels follow from inputs" in found
    assert found["samples do not leak"].mark == "pass"


@pytest.mark.parametrize("marked", [-1, -7])
def test_labels_that_are_left_out_count_for_nothing(marked: int) -> None:
    """Half of the labels are marked with a negative number; the answers are those for torch's own number."""

    def examined(ignored: int) -> list[tuple[str, bool | None, str]]:
        class Half(Classifier):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return F.cross_entropy(self.net(batch[0]), batch[1], ignore_index=ignored)

        x, y = digits(640).tensors
        y = torch.where(torch.arange(640) % 2 == 0, y, torch.full_like(y, ignored))
        check = SanityCheck()
        L.seed_everything(0, verbose=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer([check], max_steps=1).fit(Half(), DataLoader(TensorDataset(x, y), 64))
        return [(c.name, c.passed, c.evidence) for c in check.checks]

    found = examined(marked)
    assert found == examined(-100)
    assert len(found) > 5
    assert all(passed is not None for _, passed, _ in found), found
