"""Predictions that are found in a training step that returns nothing but a loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks import PredictionCollapse, TrickError
from lightning_tricks.collapse.prediction_search import OutputSearch, candidates, chosen, explains, loss_of, told
from tests.problems import Classifier, fit


class OnlyLoss(Classifier):
    """A hidden layer and two heads, of which the loss knows one."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(64, 12), nn.Linear(12, 10), nn.Linear(12, 11)
        self.factor = factor

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        hidden = self.body(x.flatten(1)).relu()
        self.other(hidden)
        return self.factor * F.cross_entropy(self.head(hidden), y)


def test_the_module_whose_output_explains_the_loss_is_watched(caplog: Any) -> None:
    found, named = PredictionCollapse(every_n_steps=2), PredictionCollapse("head", every_n_steps=2)
    modules = [OnlyLoss(), OnlyLoss()]
    modules[1].load_state_dict(modules[0].state_dict())
    with caplog.at_level("INFO"):
        fit(modules[0], [found], max_epochs=4)
    fit(modules[1], [named], max_epochs=4)
    assert "PredictionCollapse: watches the output of 'head'; output='head' says so for good." in caplog.text
    assert found.verdict.values == named.verdict.values and "skill" in found.verdict.values
    assert not any(m._forward_hooks for m in modules[0].modules())


def test_where_none_does_the_candidates_are_listed_at_once() -> None:
    module = OnlyLoss(factor=2.0)
    text = r"Pass the one that is meant: output='head' \[8, 10\], output='other' \[8, 11\], output='body' \[8, 12\]\."
    with pytest.raises(TrickError, match=text):
        fit(module, [PredictionCollapse(every_n_steps=2)])
    assert not any(m._forward_hooks for m in module.modules())


def test_an_output_with_fewer_classes_than_labels_is_no_candidate() -> None:
    seen = {"small": torch.zeros(4, 2), "head": torch.zeros(4, 3), "wide": torch.zeros(5, 3)}
    assert list(candidates(seen, [torch.tensor([0, 1, 2, 0])])) == ["head"]


def losses() -> list[tuple[dict[str, Tensor], Tensor]]:
    torch.manual_seed(0)
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, -100, 1, 0])
    output, values, labels = torch.randn(6, 2), torch.randn(6, 2), torch.randint(2, (6, 2)).float()
    classes = {"logits": logits, "target": target}
    return [
        (classes, F.cross_entropy(logits, target)),
        ({"logits": logits.log_softmax(1), "target": target}, F.cross_entropy(logits, target)),
        ({"output": output, "values": values}, F.mse_loss(output, values)),
        ({"output": output, "values": values}, F.l1_loss(output, values)),
        ({"output": output, "values": labels}, F.binary_cross_entropy_with_logits(output, labels)),
    ]


@pytest.mark.parametrize("case", range(5))
def test_the_usual_losses_are_recognised_and_no_other_output_is_taken(case: int) -> None:
    rows, loss = losses()[case]
    decoy = {
        name: part + 0.5 * torch.randn_like(part) if part.is_floating_point() else part for name, part in rows.items()
    }
    assert chosen({"decoy": decoy, "head": rows}, loss) == "head"
    assert chosen({"decoy": decoy, "head": rows}, loss + 1.0) is None


class OneNumber(Classifier):
    """A hidden layer, and one number for each sample; labels of 0 and 1 are numbers as well."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 12), nn.Linear(12, 1)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0], (batch[1] % 2).float()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self.head(self.body(x.flatten(1)).relu()).squeeze(1), y)


@pytest.mark.filterwarnings("error::UserWarning")
def test_one_number_is_found_beside_wider_outputs_where_labels_are_zeros_and_ones() -> None:
    found, module = PredictionCollapse(every_n_steps=2), OneNumber()
    fit(module, [found], max_epochs=4)
    assert found.verdict.values
    assert not any(m._forward_hooks for m in module.modules())


def test_a_loss_of_several_outputs_beside_one_value_is_that_of_each_with_the_value() -> None:
    torch.manual_seed(0)
    output, values = torch.randn(6, 3), torch.randint(2, (6, 1)).float()
    each = torch.stack([F.binary_cross_entropy_with_logits(output[:, i], values[:, 0]) for i in range(3)])
    assert chosen({"head": {"output": output, "values": values}}, each.mean()) == "head"


def test_a_loss_that_is_not_finite_explains_nothing() -> None:
    rows, _ = losses()[0]
    both = {"a": rows, "b": rows}
    assert chosen(both, torch.tensor(float("nan"))) is None
    assert chosen(both, None) is None
    assert chosen({"a": rows}, None) == "a"  # the only one that fits


def test_an_output_that_a_module_only_passes_on_has_the_name_of_the_inner_one() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Identity())

    def watch(module: nn.Module, seen: Any) -> Any:
        return module.register_forward_hook(lambda m, args, output: seen(output))

    search = OutputSearch({"": net, "net": net, "net.0": net[0], "net.1": net[1]}, watch)
    net(torch.zeros(1, 3))
    assert list(search.take()) == ["net.0"]
    search.end()
    net(torch.zeros(1, 3))
    assert search.take() == {} and not net._forward_hooks


def test_a_list_of_candidates_has_shapes_and_an_end() -> None:
    seen = {f"layer{i}": torch.zeros(2, i) for i in range(1, 8)}
    assert told({}, seen).startswith("output='layer7' [2, 7], ") and told({}, seen).endswith("and 2 more")


def test_a_step_without_a_loss_has_none() -> None:
    assert loss_of({"logits": torch.zeros(2)}) is None and loss_of(None) is None


@pytest.mark.parametrize("key", ["labels", "label", "targets", "y"])
def test_labels_are_found_under_their_usual_keys(key: str) -> None:
    class Named(OnlyLoss):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step((batch["x"], batch[key]), batch_idx)

    from torch.utils.data import DataLoader

    from tests.problems import digits, trainer

    rows = [{"x": x, key: y} for x, y in digits(32)]
    detector = PredictionCollapse(every_n_steps=2)
    trainer([detector], max_epochs=8).fit(Named(), DataLoader(rows, 8))
    assert "skill" in detector.verdict.values


def test_a_module_that_was_found_is_watched_on_when_the_search_is_over() -> None:
    net, outputs = nn.Linear(3, 2), []

    def watch(module: nn.Module, seen: Any) -> Any:
        return module.register_forward_hook(lambda m, args, output: seen(output))

    search = OutputSearch({"head": net}, watch)
    logits, target = net(torch.ones(4, 3)).detach(), torch.tensor([0, 1, 1, 0])
    name, output = search.find("*", [target], F.cross_entropy(logits, target))
    assert name == "head" and torch.equal(output, logits)
    search.watch(name, outputs.append)
    search.end()
    net(torch.ones(1, 3))
    assert len(outputs) == 1 and search.take() == {}


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(),
        nn.MSELoss(reduction="sum"),
        nn.L1Loss(),
        nn.SmoothL1Loss(),
        nn.HuberLoss(),
        lambda one, two: nn.functional.mse_loss(one, two).sqrt(),
        lambda one, two: 0.5 * (one - two).square().mean(),
        lambda one, two: (one - two).square().sum(1).mean(),
    ],
)
def test_a_usual_loss_of_numbers_is_known_again_and_that_of_other_numbers_is_not(loss: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    output, values = (torch.randn(16, 3, generator=generator) for _ in range(2))
    rows = {"output": output, "values": values}
    assert explains(rows, loss(output, values))
    assert not explains(rows, loss(output, values.roll(1, 0))) and not explains(rows, loss(output - 1, values - values))
    assert not explains(rows, None) and not explains({**rows, "output": output[:, :2]}, loss(output, values))
    assert not explains({"logits": output, "target": torch.zeros(16).long()}, loss(output, values))
