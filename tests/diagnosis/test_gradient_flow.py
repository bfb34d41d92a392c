"""SanityCheck on gradients; the wide table of trainings is in test_sanity_on_other_trainings.py."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_tricks import SanityCheck, TrickError
from tests.diagnosis.problems import Task, checks, classes, cross_entropy, load, mlp
from tests.problems import trainer

pytestmark = pytest.mark.filterwarnings("ignore")


class Parts(Task):
    """A backbone and a head; the optimizer holds those that are named."""

    held = ("backbone", "head")

    def __init__(self, step: Any) -> None:
        super().__init__(nn.Identity(), step)
        self.backbone, self.head = mlp(8), nn.Linear(8, 4)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for n in self.held for p in getattr(self, n).parameters()], lr=1e-2)


def through(self: Any, b: Any) -> Any:
    return F.cross_entropy(self.head(self.backbone(b[0])), b[1])


def learn_from(module: Any, data: Any) -> Any:
    return checks(module, data)["all parameters learn"]


def learn(module: Any) -> Any:
    return learn_from(module, load(*classes()))


def test_a_backbone_that_is_left_out_as_a_whole_may_be_meant_and_a_head_may_not() -> None:
    module = Parts(through)
    module.held = ("head",)
    assert learn(module).passed is None
    module = Parts(through)
    module.held = ("backbone",)
    found = learn(module)
    assert found.passed is False
    assert found.evidence == "in no optimizer: head.weight, head.bias"


def without(self: Any, b: Any) -> Any:
    with torch.no_grad():
        h = self.backbone(b[0])
    return F.cross_entropy(self.head(h), b[1])


def cut(self: Any, b: Any) -> Any:
    return F.cross_entropy(self.head(self.backbone(b[0]).detach()), b[1])


def test_a_trained_network_under_no_grad_is_meant_and_one_that_never_was_trained_is_not() -> None:
    trained = Parts(without)
    with torch.no_grad():
        for p in trained.backbone.parameters():
            p.mul_(1.3)  # no initialisation gives these
    assert learn(trained).passed is None
    fresh = learn(Parts(without))
    assert fresh.passed is False and "backbone.0.weight" in fresh.evidence
    assert learn(Parts(cut)).passed is False


def test_a_network_under_no_grad_whose_output_is_the_target_may_be_random() -> None:
    def step(self: Any, b: Any) -> Any:
        with torch.no_grad():
            aim = self.random(b[0])
        return F.mse_loss(self.head(self.backbone(b[0])), aim)

    module = Parts(step)
    module.random, module.held = nn.Linear(12, 4), ("backbone", "head", "random")
    assert learn(module).passed is not False


def test_a_head_of_zeros_does_not_hide_that_nothing_reaches_the_layers_before_it() -> None:
    def begun(step: Any, factor: float = 1.0) -> Any:
        module = Parts(step)
        nn.init.zeros_(module.head.weight)
        nn.init.zeros_(module.head.bias)
        with torch.no_grad():
            for p in module.backbone.parameters():
                p.mul_(factor)
        return learn(module)

    for step in (without, cut):
        found = begun(step)
        assert found.passed is False and "backbone.0.weight" in found.evidence
    assert begun(without, 1.3).passed is None, "a trained backbone may be meant"
    assert begun(through).passed


def test_a_frozen_backbone_that_is_as_new_ones_are_may_be_meant_and_is_named() -> None:
    def frozen(factor: float) -> Any:
        module = Parts(through)
        module.backbone.requires_grad_(False)
        with torch.no_grad():
            for p in module.backbone.parameters():
                p.mul_(factor)
        module.held = ("head",)
        return learn(module)

    found = frozen(1.0)
    assert found.passed is None and found.evidence.startswith("frozen, and as new layers are: backbone.0.weight")
    assert frozen(1.3).passed, "weights like these were trained"


def test_a_frozen_backbone_as_libraries_draw_its_weights_is_named_too() -> None:
    def frozen(factor: float) -> Any:
        net = nn.Sequential(nn.Linear(12, 400), nn.ReLU(), nn.Linear(400, 64), nn.ReLU())
        for layer in (net[0], net[2]):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layer.weight.data.mul_(factor)
        module = Task(nn.Sequential(net.requires_grad_(False), nn.Linear(64, 4)), cross_entropy)
        return learn(module)

    found = frozen(1.0)
    assert found.passed is None and found.evidence.startswith("frozen, and as new layers are: net.0.0.weight")
    assert frozen(1.3).passed, "weights like these were trained"


def test_a_frozen_network_that_gives_the_target_and_a_copy_of_one_that_learns_are_no_checkpoints() -> None:
    def against(self: Any, b: Any) -> Any:
        return F.mse_loss(self.head(self.backbone(b[0])), self.random(b[0]))

    def beside(self: Any, b: Any) -> Any:
        return F.cross_entropy(self.head(self.backbone(b[0]) + self.copied(b[0])), b[1])

    module = Parts(against)
    module.random = nn.Linear(12, 4).requires_grad_(False)
    assert learn(module).passed
    module = Parts(beside)
    module.copied = deepcopy(module.backbone).requires_grad_(False)
    assert learn(module).passed


def test_a_choice_by_argmax_gives_the_layer_that_chooses_no_gradient() -> None:
    """The largest output stays the largest one when all weights are multiplied by one factor."""

    def chosen(self: Any, b: Any, *, weighed: bool) -> Any:
        share, index = self.router(b[0]).softmax(1).max(1)
        outputs = torch.stack([self.head(self.backbone(b[0])), self.other(b[0])], 1)[torch.arange(len(b[0])), index]
        return F.cross_entropy(outputs * share[:, None] if weighed else outputs, b[1])

    def routed(weighed: bool, *, used: bool = True) -> Any:
        module = Parts(lambda self, b: chosen(self, b, weighed=weighed) if used else through(self, b))
        module.router, module.other = nn.Linear(12, 2), nn.Linear(12, 4)
        module.held = ("backbone", "head", "router", "other")
        return learn(module)

    found = routed(False)
    assert found.passed is False
    assert found.evidence == "no gradient, though the loss depends on them: router.weight, router.bias"
    assert routed(True).passed
    assert routed(False, used=False).passed is None, "what takes no part may wait for another phase"


def test_units_with_equal_weights_stay_alike_and_a_head_of_zeros_does_not() -> None:
    module = Parts(through)
    for p in module.backbone.parameters():
        nn.init.constant_(p, 0.05)
    found = learn(module)
    assert found.passed is False
    assert found.evidence.startswith("all units have the same weights, and get the same gradient: backbone.0.weight")
    module = Parts(through)
    nn.init.zeros_(module.head.weight)
    assert learn(module).passed


def test_a_rate_of_zero_that_no_schedule_raises_is_a_fault() -> None:
    class Groups(Parts):
        scheduled = False

        def configure_optimizers(self) -> Any:
            groups = [{"params": self.backbone.parameters(), "lr": 0.0}, {"params": self.head.parameters()}]
            optimizer = torch.optim.SGD(groups, lr=0.1)
            rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
            return ([optimizer], [rise]) if self.scheduled else optimizer

    found = learn(Groups(through))
    assert found.passed is False and found.evidence.startswith("a learning rate of 0, and no schedule that raises it")
    module = Groups(through)
    module.scheduled = True
    assert learn(module).passed


def test_a_step_that_never_returns_a_loss_is_a_fault_and_one_that_skips_a_batch_is_not() -> None:
    found = learn(Task(mlp(), lambda self, b: None))
    assert found.passed is False and found.evidence == "training_step returned None for 8 batches: nothing is trained"
    module = Task(mlp(), lambda self, b: None if b[1][0] > 0 else cross_entropy(self, b))
    assert learn(module).passed is not False


def test_a_teacher_in_the_optimizer_is_no_fault() -> None:
    def step(self: Any, b: Any) -> Any:
        return F.mse_loss(self.backbone(b[0]), self.teacher(b[0]).detach()) + through(self, b)

    module = Parts(step)
    module.teacher = deepcopy(module.backbone)
    module.held = ("backbone", "head", "teacher")
    assert learn(module).passed is not False


class Echo(Task):
    """An encoder and a decoder of one kind and size; the state may be detached on its way, or go nowhere."""

    def __init__(self, way: str) -> None:
        super().__init__(nn.Identity(), None)  # type: ignore[arg-type]
        self.way, self.embed, self.head = way, nn.Embedding(9, 8), nn.Linear(16, 9)
        self.encoder, self.decoder = nn.GRU(8, 16, batch_first=True), nn.GRU(8, 16, batch_first=True)

    def training_step(self, b: Any, batch_idx: int) -> Any:
        state = self.encoder(self.embed(b[0]))[1]
        state = {"whole": state, "detached": state.detach(), "nowhere": torch.zeros_like(state)}[self.way]
        given = F.pad(b[0], (1, 0), value=8)[:, :-1]
        return F.cross_entropy(self.head(self.decoder(self.embed(given), state)[0]).flatten(0, 1), b[0].flatten())


@pytest.mark.parametrize(("way", "passed"), [("whole", True), ("detached", False), ("nowhere", None)])
def test_an_encoder_that_is_cut_off_is_no_teacher_of_a_decoder_like_it(way: str, passed: bool | None) -> None:
    tokens = torch.randint(8, (64, 6), generator=torch.Generator().manual_seed(0))
    assert learn_from(Echo(way), load(tokens)).passed is passed


def test_a_target_network_that_was_not_copied_yet_is_no_encoder_that_is_cut_off() -> None:
    def step(self: Any, b: Any) -> Any:
        values = self.backbone(b[0]).gather(1, b[1][:, None]).squeeze(1)
        return F.mse_loss(values, b[0][:, 0] + 0.9 * self.later(b[0].roll(1, 0)).max(1).values.detach()) + through(
            self, b
        )

    module = Parts(step)
    module.later = mlp(8)
    module.held = ("backbone", "head", "later")
    assert learn(module).passed is None


def test_a_loss_that_depends_on_no_parameter_is_a_fault() -> None:
    module = Task(mlp(), lambda self, b: self.net(b[0]).detach().square().mean())
    with pytest.raises(TrickError, match="the loss depends on no parameter"):
        trainer([SanityCheck(on_failure="raise")], max_steps=1).fit(module, load(*classes()))


def test_no_gradients_at_a_loss_of_0_are_success_of_a_network_that_was_trained_before() -> None:
    fresh, trained = mlp(), mlp()
    for p in trained.parameters():
        nn.init.normal_(p)
    found = [learn(Task(net, lambda self, b: F.relu(-self.net(b[0]).square() - 1).mean())) for net in (fresh, trained)]
    assert [check.passed for check in found] == [False, True]


def test_a_parameter_behind_a_step_that_has_no_gradient_is_a_fault() -> None:
    found = learn(Parts(lambda self, b: F.cross_entropy(self.head(self.backbone(b[0]).sign() + 0 * b[0][:, :8]), b[1])))
    assert found.passed is False


def test_gradients_that_are_cleared_every_other_time_are_meant() -> None:
    class Every(Task):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            if batch_idx % 2 == 0:
                optimizer.zero_grad()

    assert learn(Every(mlp(), cross_entropy)).passed


@pytest.mark.parametrize("hook", ["on_after_backward", "on_before_optimizer_step"])
def test_gradients_that_a_hook_of_the_module_takes_away_have_arrived(hook: str) -> None:
    """As of DINO's last layer in the first epoch."""

    def cancel(self: Any, *arguments: Any) -> None:
        if self.current_epoch == 0:
            for p in self.head.parameters():
                p.grad = None

    kind = type("Cancelling", (Parts,), {hook: cancel})
    assert learn(kind(through)).passed
