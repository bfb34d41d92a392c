from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_tricks import (
    DeadUnits,
    GenerationDrift,
    ModeCollapse,
    PredictionCollapse,
    RepresentationCollapse,
    TrickError,
    UnsupportedError,
)
from lightning_tricks.collapse import unit_sums
from lightning_tricks.collapse.callbacks.generations_probe import GenerationsProbe
from lightning_tricks.detection.announcer import log_prefix
from lightning_tricks.detection.judge import Judge
from lightning_tricks.functional import coverage, recall, skill
from tests.problems import Classifier, Memory, digits, fit, loader, sgd, trainer

QUICK: dict[str, Any] = {"every_n_steps": 2, "patience": 2, "grace": 0}


class Dictionary(Classifier):
    """Returns logits and labels; batches are dicts."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch["x"])
        return {"loss": nn.functional.cross_entropy(logits, batch["y"]), "logits": logits, "nothing": None}


def dictionaries(batch: int = 128) -> DataLoader[Any]:
    rows = [{"x": x, "y": y} for x, y in digits(1792)]
    return DataLoader(rows, batch_size=batch)  # type: ignore[arg-type]


# -- what they measure --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["logits", "net"])
def test_the_skill_is_that_of_the_batches_before_the_check(output: str) -> None:
    class Remembering(Dictionary):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            out = super().training_step(batch, batch_idx)
            self.seen_pairs = [*getattr(self, "seen_pairs", []), (out["logits"].detach(), batch["y"])]
            return out

    module, detector = Remembering(), PredictionCollapse(output, "y", every_n_steps=5)
    trainer([detector]).fit(module, dictionaries())
    step, values = detector.history[1]
    assert step == 9
    pairs = module.seen_pairs[6:10]  # four batches of 128 are 512 samples
    logits, labels = (torch.cat(x) for x in zip(*pairs, strict=True))
    wanted = skill(nn.functional.cross_entropy(logits.double(), labels), torch.bincount(labels).double())
    assert values["skill"] == pytest.approx(float(wanted), rel=1e-4)


def test_features_are_those_of_the_layer() -> None:
    seen: list[Tensor] = []
    module, detector = Classifier(), RepresentationCollapse("net.2", every_n_steps=6)
    module.net[2].register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    fit(module, [detector], n=1792, batch=256)
    x = torch.cat(seen[4:6]).double().numpy()
    unit = x / numpy.linalg.norm(x, axis=1, keepdims=True)
    assert detector.history[0][1]["sphere_variance"] == pytest.approx(1 - (unit.mean(0) ** 2).sum(), abs=1e-5)


class Toy(L.LightningModule):
    """A generator that gives points on so many of eight places; no training worth the name."""

    def __init__(self, modes: int) -> None:
        super().__init__()
        self.generator, self.weight, self.modes = nn.Identity(), nn.Parameter(torch.zeros(())), modes

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        made = self.generator(self.weight + ring(len(batch[0]), self.modes))
        return made.mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def ring(count: int, modes: int) -> Tensor:
    angle = torch.randint(modes, (count,)) * (2 * math.pi / 8)
    return torch.stack([angle.cos(), angle.sin()], 1) * 2 + 0.05 * torch.randn(count, 2)


def rings() -> DataLoader[Any]:
    return DataLoader(torch.utils.data.TensorDataset(ring(1280, 8)), batch_size=128)


@pytest.mark.parametrize(("modes", "alarmed"), [(8, False), (2, True), (1, True)])
def test_lost_modes_are_noticed_and_measured_as_the_functions_do(modes: int, alarmed: bool) -> None:
    detector = ModeCollapse("generator", every_n_steps=2, patience=2, grace=0, action="log")
    trainer([detector]).fit(Toy(modes), rings())
    assert detector.verdict.alarmed is alarmed
    probe: Any = detector.watch.probe
    made, real = probe._compared
    values = detector.history[-1][1]
    assert values["recall"] == pytest.approx(float(recall(made, real)), abs=1e-6)
    assert values["coverage"] == pytest.approx(float(coverage(made, real)), abs=1e-6)


@pytest.mark.parametrize(("far", "alarmed"), [(True, True), (False, False)])
def test_samples_far_from_all_real_ones_reach_far_and_are_noticed_all_the_same(far: bool, alarmed: bool) -> None:
    class Far(Toy):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            made = 80 * torch.randn(len(batch[0]), 2) if far else ring(len(batch[0]), 8)
            return self.generator(self.weight + made).mean()

    detector = ModeCollapse("generator", every_n_steps=1, patience=2, grace=0, action="log")
    trainer([detector], max_epochs=2).fit(Far(8), rings())
    values = detector.history[-1][1]
    assert detector.verdict.alarmed is alarmed
    assert values["recall"] > 0.5, "which does not show it"
    assert not alarmed or detector.verdict.reasons[0].startswith("0% of the samples of generator lie among real ones")


@pytest.mark.parametrize(
    ("act", "kind", "bias", "alarmed"),
    [
        (nn.ReLU(), "dead", -50.0, True),
        (nn.ReLU(), "dead", -0.3, False),
        (nn.Sigmoid(), "saturated", 50.0, True),
        (nn.Tanh(), "saturated", 0.0, False),
        (nn.GELU(), "dormant", 0.0, False),
    ],
)
def test_units_that_have_stopped(act: nn.Module, kind: str, bias: float, alarmed: bool) -> None:
    net = nn.Sequential(nn.Linear(64, 40), act, nn.Linear(40, 10))
    nn.init.constant_(net[0].bias, bias)  # type: ignore[arg-type]
    detector = DeadUnits(**QUICK, action="log")
    fit(Classifier(lambda p: sgd(p, lr=1e-4), net=net), [detector], n=1792, batch=128)
    assert detector.verdict.alarmed is alarmed
    assert list(detector.history[0][1]) == [f"{kind}/net.1"]
    if alarmed:
        assert f"of the units of net.1 are {kind}" in detector.verdict.reasons[0]


def test_a_linear_layer_can_be_watched_for_a_functional_relu() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(64, 30), nn.Linear(30, 10)
            nn.init.constant_(self.one.bias, -50.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.relu(self.one(x)))

    with pytest.raises(TrickError, match=r"has no activation modules .* Name the layers before them"):
        fit(Classifier(net=Functional()), [DeadUnits()])
    detector = DeadUnits(["net.one"], **QUICK, action="log")
    fit(Classifier(net=Functional()), [detector], n=1792, batch=128)
    assert detector.verdict.cause == "dead units"


def test_units_of_checkpointed_activations_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Checkpointed(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            out = torch.utils.checkpoint.checkpoint(self.net, batch[0].requires_grad_(), use_reentrant=True)
            return nn.functional.cross_entropy(out, batch[1])

    add, calls = unit_sums.add_units, []

    def counted(*arguments: Any) -> None:
        calls.append(arguments[1])
        add(*arguments)

    monkeypatch.setattr(unit_sums, "add_units", counted)
    numbers = []
    for module in (Classifier(), Checkpointed()):
        calls.clear()
        fit(module, [DeadUnits(every_n_steps=5, action="log")], n=640, batch=64)
        numbers.append(len(calls))
    assert numbers[0] == numbers[1] > 0


class Writer(L.LightningModule):
    """Samples lose variance, or repeat themselves; the loss on real data grows with it."""

    def __init__(self, tokens: bool, shrink: float) -> None:
        super().__init__()
        self.tokens, self.shrink, self.weight = tokens, shrink, nn.Parameter(torch.ones(()))

    def sample(self, count: int) -> Tensor:
        left = self.shrink**self.current_epoch
        if self.tokens:
            return torch.randint(max(1, int(20 * left)), (count, 30))
        return torch.randn(count, 5) * left

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.training or not torch.is_grad_enabled()
        return self.weight * 0 + 2.0 - self.shrink**self.current_epoch

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def real(tokens: bool) -> DataLoader[Any]:
    data = torch.randint(20, (128, 30)) if tokens else torch.randn(128, 5)
    return DataLoader(torch.utils.data.TensorDataset(data), batch_size=32)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("shrink", "cause"), [(1.0, ""), (0.6, "recursive collapse")])
def test_generations_are_followed(tokens: bool, shrink: float, cause: str) -> None:
    detector = GenerationDrift(num_samples=96, action="log")
    trainer([detector], max_epochs=6).fit(Writer(tokens, shrink), real(tokens))
    assert detector.verdict.cause == cause
    last = detector.history[-1][1]
    assert last["real_loss"] == pytest.approx(2.0 - shrink**5)
    if not tokens:
        assert last["variance_ratio"] == pytest.approx(shrink**10, rel=0.35)


def test_a_resumed_run_knows_its_real_data(tmp_path: Any) -> None:
    def make() -> GenerationDrift:
        return GenerationDrift(num_samples=96, action="log")

    whole = make()
    torch.manual_seed(0)
    trainer([whole], max_epochs=6).fit(Writer(False, 0.6), real(False))
    first = make()
    torch.manual_seed(0)
    t = trainer([first], max_epochs=3)
    t.fit(Writer(False, 0.6), real(False))
    t.save_checkpoint(tmp_path / "a.ckpt")
    second = make()
    trainer([second], max_epochs=6).fit(Writer(False, 0.6), real(False), ckpt_path=tmp_path / "a.ckpt")
    assert second.watch.probe.real is not None
    assert first.watch.probe.real is not None
    assert torch.equal(second.watch.probe.real, first.watch.probe.real)
    assert second.verdict.cause == whole.verdict.cause == "recursive collapse"


def test_logged_keys_are_those_of_the_docstring() -> None:
    logger = Memory()
    tricks = [
        RepresentationCollapse("net.2", **QUICK),
        PredictionCollapse("net", **QUICK),
        ModeCollapse("echo", **QUICK),
        DeadUnits(**QUICK),
        GenerationDrift(num_samples=32),
    ]
    fit(Classifier(lambda p: sgd(p, lr=0.0)), tricks, n=1792, batch=128, logger=logger)
    keys = {key for _, row in logger.rows for key in row}
    for trick in tricks:
        name = log_prefix(trick, trick.run, "collapse")
        logged = {key.removeprefix(f"{name}/") for key in keys if key.startswith(f"{name}/")}
        assert "alarm" in logged
        assert not any(k.startswith("_") for k in logged)
        for key in logged:
            assert f"``{key.split('/')[0]}" in type(trick).__doc__ or f"/{key.split('/')[0]}" in type(trick).__doc__, (
                key
            )  # type: ignore[operator]


# -- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: RepresentationCollapse(3), TypeError, "layer must be a name"),  # type: ignore[arg-type]
        (
            lambda: RepresentationCollapse("net", every_n_steps=0),
            ValueError,
            "every_n_steps must be a whole number >= 1",
        ),
        (lambda: RepresentationCollapse("net", patience=0), ValueError, "patience must be"),
        (lambda: RepresentationCollapse("net", grace="soon"), ValueError, "grace is in no known form"),
        (lambda: RepresentationCollapse("net", action="wrn"), ValueError, "Did you mean 'warn'"),
        (lambda: PredictionCollapse(""), TypeError, "output must be a name"),
        (lambda: ModeCollapse(""), TypeError, "generator must be a name"),
        (lambda: DeadUnits("net"), TypeError, "layers must be a list of names"),  # type: ignore[arg-type]
        (lambda: DeadUnits([]), ValueError, "layers must name at least one module"),
        (lambda: GenerationDrift(num_samples=3), ValueError, "num_samples must be a whole number >= 32"),
        (lambda: GenerationDrift(action="rollback"), UnsupportedError, "generations cannot be put back"),
    ],
)
def test_bad_arguments_are_refused_at_construction(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RepresentationCollapse("nett.2"), r"there is no such module. The nearest name is 'net\.\d'"),
        (lambda: ModeCollapse("ecko"), "there is no such module. The nearest name is 'echo'"),
        (lambda: DeadUnits(["nat.1"]), r"The nearest name is 'net\.1'"),
        (lambda: GenerationDrift("sampel"), "has no such method. The nearest name is 'sample'"),
        (lambda: PredictionCollapse("logitz"), "training_step returns no such key"),
        (
            lambda: PredictionCollapse("net", "labels"),
            "neither the batch nor what training_step returns has such a key",
        ),
        (lambda: ModeCollapse("net"), "the batch holds no real samples of 10 numbers"),
        (lambda: PredictionCollapse("net.0"), r"label \d+ is none|no target fits"),
    ],
)
def test_what_cannot_work_is_an_error_at_fit_start(make: Any, text: str) -> None:
    if "label" in text and "none" in text:
        net = nn.Sequential(nn.Linear(64, 4), nn.Linear(4, 10))
        with pytest.raises(TrickError, match=text):
            fit(Classifier(net=net), [make()])
        return
    with pytest.raises(TrickError, match=text):
        fit(Classifier(), [make()])


def test_a_dict_of_batch_names_the_nearest_key() -> None:
    with pytest.raises(TrickError, match="The nearest name is 'y'"):
        trainer([PredictionCollapse("logits", "yy")]).fit(Dictionary(), dictionaries())


def test_layers_that_are_not_called_or_give_no_features() -> None:
    class Spare(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.act = nn.Linear(2, 2), nn.ReLU()

    for make in (
        lambda: RepresentationCollapse("spare"),
        lambda: ModeCollapse("spare"),
        lambda: DeadUnits(["act"]),
    ):
        with pytest.raises(TrickError, match="called in the first training step"):
            fit(Spare(), [make()])

    class Text(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            self.last = x
            return "text", x.long()  # type: ignore[return-value]

    class Odd(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.odd = Text()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.odd(batch[0])
            return super().training_step(batch, batch_idx)

    for make, text in (
        (lambda: RepresentationCollapse("odd"), "holds no features"),
        (lambda: PredictionCollapse("odd"), "holds no floating-point tensor"),
        (lambda: ModeCollapse("odd"), "holds no batch of samples"),
    ):
        with pytest.raises(TrickError, match=text):
            fit(Odd(), [make()])


def test_labels_that_do_not_fit_are_an_error() -> None:
    class Wrong(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss, "logits": torch.randn(len(batch[0]) + 1, 10)}

    with pytest.raises(TrickError, match=r"no target fits logits of shape \(9, 10\)"):
        fit(Wrong(), [PredictionCollapse()])


class Regression(Classifier):
    def sample(self, count: int) -> Any:
        return "no tensor"


def test_samples_that_are_no_tensor_or_of_another_size() -> None:
    with pytest.raises(TrickError, match=r"sample\(2\) returned str instead of 2 samples"):
        fit(Regression(), [GenerationDrift()])

    class Other(Classifier):
        def sample(self, count: int) -> Tensor:
            return torch.randn(count, 3)

    with pytest.raises(TrickError, match=r"no real samples of shape \(3,\)"):
        fit(Other(), [GenerationDrift()])


def test_labels_of_one_class_are_no_alarm() -> None:
    class One(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((batch[0], batch[1] * 0), batch_idx)

    detector = PredictionCollapse("net", **QUICK, action="raise")
    one = [(x, y * 0) for x, y in digits(1792)]
    trainer([detector]).fit(One(), DataLoader(one, batch_size=128))  # type: ignore[arg-type]
    assert not detector.verdict.alarmed
    assert math.isnan(detector.verdict.values["skill"])


def test_a_network_at_its_begin_is_not_yet_collapsed() -> None:
    """Deep networks look collapsed before they have learned."""
    torch.manual_seed(0)
    layers = [m for _ in range(12) for m in (nn.Linear(64, 64), nn.Tanh())]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    detector = RepresentationCollapse("net.23", every_n_steps=2, action="log", grace="10%")
    module = Classifier(lambda p: torch.optim.AdamW(p, lr=2e-3), net=net)
    t = trainer([detector], max_epochs=3)
    t.fit(module, loader(1792, 64))
    assert detector.history[0][1]["sphere_variance"] < 0.05, "so it looks at first"
    assert detector.verdict.cause != "complete collapse"  # (a classifier's last layer does have a low rank)


class Tokens(L.LightningModule):
    """A language model whose first token is the same in all sequences: there all features and all labels are equal."""

    def __init__(self, sequences: int, length: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.length, self.sequences = length, sequences
        self.embed, self.gru, self.features = nn.Embedding(50, 16), nn.GRU(16, 16, batch_first=True), nn.Identity()
        self.head = nn.Linear(16, 50)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.head(self.features(self.gru(self.embed(batch))[0]))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.flatten())  # (to name each token)
        return {"loss": loss, "logits": logits.detach(), "target": batch}

    def train_dataloader(self) -> Any:
        tokens = torch.randint(1, 50, (self.sequences * 8, self.length), generator=torch.Generator().manual_seed(1))
        tokens[:, 0] = 0
        return DataLoader(tokens, batch_size=self.sequences)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@pytest.mark.parametrize(("sequences", "length"), [(512, 17), (510, 17), (512, 16), (256, 32), (600, 9)])
def test_a_healthy_language_model_is_not_judged_by_one_position_alone(sequences: int, length: int) -> None:
    features, labels = RepresentationCollapse("features", **QUICK), PredictionCollapse(**QUICK)
    trainer([features, labels]).fit(Tokens(sequences, length))
    assert not features.verdict.alarmed
    for _, values in features.history:
        assert values["sphere_variance"] > 0.3
    share_of_begin = 1 / length
    for _, values in labels.history:
        assert values["label_entropy"] > 0.75 * (1 - share_of_begin) * math.log(49)
    assert len(features.history) == len(labels.history) == 4


def test_features_that_become_one_vector_far_from_where_they_began_have_no_rank() -> None:
    class Drifting(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.watched(self.net[0](batch[0]) if batch_idx < 6 else torch.full((len(batch[0]), 24), 37.7))
            return super().training_step(batch, batch_idx)

    module, detector = Drifting(), RepresentationCollapse("watched", every_n_steps=4)
    module.watched = nn.Identity()
    trainer([detector]).fit(module, DataLoader(digits(1792), batch_size=128))
    ranks = [values["effective_rank"] for _, values in detector.history]
    assert ranks[0] > 3 and ranks[-1] == 0.0


class Scaled(Classifier):
    """Gives the inputs to a layer that only looks at them, from some batch on times a factor."""

    factor, since = 1.0, 3

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.watched(batch[0].flatten(1) * (self.factor if self.trainer.global_step >= self.since else 1.0))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("factor", "cause"), [(0.1, "complete collapse"), (0.5, ""), (20.0, "")])
def test_features_that_shrink_to_a_point_have_collapsed_though_their_directions_vary(factor: float, cause: str) -> None:
    module, detector = Scaled(), RepresentationCollapse("watched", **QUICK, action="log")
    module.watched, module.factor = nn.Identity(), factor
    trainer([detector], max_epochs=2).fit(module, DataLoader(digits(1792), batch_size=128, drop_last=True))
    assert str(detector.verdict.cause) == cause
    assert all(values["sphere_variance"] > 0.1 for _, values in detector.history)
    if cause:
        assert "shrink to a point" in detector.verdict.reasons[0]


class Moved(Classifier):
    """Gives normal numbers to a layer that only looks at them, from some batch on around a mean of so much."""

    variance, spread, rank = 1.0, 1.0, 16

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        features = torch.randn(len(batch[0]), 16)
        if self.trainer.global_step >= 7:
            kept = 3 * torch.arange(16) % 16 < self.rank  # (of both halves)
            # V = s / (m + s), of a mean with the square m and features whose squares add up to s
            features = self.spread * ((16 / self.rank) ** 0.5 * features * kept + (1 / self.variance - 1) ** 0.5)
        self.watched(features)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("variance", "spread", "rank", "cause"),
    [
        (0.03, 1.05, 16, ""),
        (0.03, 8.0, 12, ""),
        (0.3, 1.05, 16, ""),
        (0.01, 1.05, 16, "complete collapse"),
        (0.03, 0.7, 16, "complete collapse"),
        (0.03, 1.05, 5, "complete collapse"),
    ],
    ids=["moved", "moved and grown", "moved a little", "moved far", "shrunk", "few dimensions"],
)
def test_a_mean_that_moves_away_is_no_collapse_while_spread_and_rank_are_kept(
    variance: float, spread: float, rank: int, cause: str
) -> None:
    module, detector = Moved(), RepresentationCollapse("watched", **QUICK, action="log")
    module.watched = nn.Identity()
    module.variance, module.spread, module.rank = variance, spread, rank
    trainer([detector], max_epochs=2).fit(module, DataLoader(digits(1792), batch_size=128, drop_last=True))
    assert str(detector.verdict.cause) == cause
    assert detector.history[-1][1]["sphere_variance"] == pytest.approx(variance, rel=0.3)


def test_the_first_size_of_features_outlives_a_stop(tmp_path: Any) -> None:
    def run(epochs: int, **given: Any) -> RepresentationCollapse:
        module, detector = Scaled(), RepresentationCollapse("watched", **QUICK, action="log")
        module.watched, module.factor, module.since = nn.Identity(), 0.1, 14
        loader = DataLoader(digits(1792), batch_size=128, drop_last=True)
        runner = trainer([detector], max_epochs=epochs)
        runner.fit(module, loader, **given)
        runner.save_checkpoint(tmp_path / "run.ckpt")
        return detector

    assert not run(1).verdict.alarmed
    assert run(2, ckpt_path=tmp_path / "run.ckpt").verdict.cause == "complete collapse"


# -- kinds of targets -----------------------------------------------------------------------------------------------------


class Labelled(L.LightningModule):
    """Gives what a function makes of the inputs; a step beside it that changes nothing."""

    def __init__(self, make: Any, outputs: int = 1) -> None:
        super().__init__()
        self.weight, self.make = nn.Parameter(torch.zeros(())), make

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = self.make(batch[0], batch[1], batch_idx)
        return {"loss": self.weight.square() + 1, "logits": output}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def judged(make: Any, inputs: Tensor, target: Tensor, batch: int = 64, **given: Any) -> PredictionCollapse:
    """Look at outputs that a function makes of inputs and targets, in one pass."""
    detector = PredictionCollapse(**{"every_n_steps": 4, "patience": 3, "grace": 0, "action": "log", **given})
    data = torch.utils.data.TensorDataset(inputs, target)
    trainer([detector]).fit(Labelled(make), DataLoader(data, batch_size=batch))
    assert detector.history, "it was not switched off"
    return detector


def inputs(n: int = 4096, width: int = 8) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(5))


RARE = torch.tensor([0.0, 1.8, 0.7, 2.3])
FREQUENCIES = torch.tensor([0.5, 0.1, 0.3, 0.05])


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda x, y, i: 1.7 * (x[:, :4] - RARE), ""),
        (lambda x, y, i: 1.7 * (x[:, :4] - RARE) + 4, ""),
        (lambda x, y, i: 0.15 * x[:, :4] + FREQUENCIES.logit(), ""),
        (lambda x, y, i: FREQUENCIES.logit().expand(len(x), 4), "inputs ignored"),
        (lambda x, y, i: torch.full((len(x), 4), -9.0), "inputs ignored"),
        (lambda x, y, i: 0.15 * x[:, 4:] + FREQUENCIES.logit(), "labels do not follow from inputs"),
    ],
    ids=["learned", "learned with weights", "a weak signal", "frequencies", "zeros", "of other inputs"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_several_labels_at_once(make: Any, cause: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = inputs()
    target = (x[:, :4] + torch.randn(len(x), 4) > RARE).to(dtype)
    detector = judged(make, x, target)
    assert detector.verdict.cause == cause
    values = detector.history[-1][1]
    assert {"skill", "cross_entropy", "label_entropy", "association"} <= set(values)
    assert "r_squared" not in values


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda x, y, i: x[:, :1], ""),
        (lambda x, y, i: x[:, 0], ""),
        (lambda x, y, i: 0.01 * x[:, :1] + 7, ""),
        (lambda x, y, i: -40 * x[:, :1] + 1e4, ""),
        (lambda x, y, i: torch.full((len(x), 1), 0.2), "inputs ignored"),
        (lambda x, y, i: x[:, 1:2], "labels do not follow from inputs"),
        (lambda x, y, i: x[:, :1] if i < 24 else x[:, 1:2], "prediction collapse"),
        (lambda x, y, i: x[:, :1] * math.inf, "non-finite values"),
    ],
    ids=[
        "learned",
        "[n] for [n, 1]",
        "too small",
        "reversed, other units",
        "constant",
        "unrelated",
        "lost",
        "infinite",
    ],
)
@pytest.mark.parametrize("tail", [False, True])
def test_a_regression(make: Any, cause: str, tail: bool) -> None:
    torch.manual_seed(2)
    x = inputs()
    noise = torch.distributions.StudentT(1.5).sample((len(x), 1)) if tail else torch.randn(len(x), 1)
    detector = judged(make, x, x[:, :1] + 0.7 * noise)
    assert detector.verdict.cause == cause
    assert {"r_squared", "variance_ratio", "correlation"} <= set(detector.history[-1][1])


def test_weak_but_significant_correlation_of_a_regression_is_healthy() -> None:
    torch.manual_seed(3)
    x = inputs(8192)
    detector = judged(lambda x, y, i: 0.1 * x[:, 0], x, 0.1 * x[:, 0] + torch.randn(len(x)), batch=128)
    assert not detector.verdict.alarmed
    assert detector.history[-1][1]["correlation"] < 0.2
    assert detector.history[-1][1]["association"] > 4


def test_quantiles_are_judged_by_their_correlation() -> None:
    torch.manual_seed(4)
    x = inputs()
    target = x[:, 0] + torch.randn(len(x))
    spread = torch.tensor([-1.0, 0.0, 1.0])
    healthy = judged(lambda x, y, i: x[:, :1] + spread, x, target)
    assert not healthy.verdict.alarmed
    assert "r_squared" not in healthy.history[-1][1]
    assert judged(lambda x, y, i: x[:, 1:2] + spread, x, target).verdict.cause == "labels do not follow from inputs"


def test_two_classes_may_be_floats_and_probabilities() -> None:
    torch.manual_seed(5)
    x = inputs()
    target = (x[:, 0] + torch.randn(len(x)) > 1.3).float()
    one = judged(lambda x, y, i: 1.5 * x[:, :1] - 2, x, target)
    other = judged(lambda x, y, i: (1.5 * x[:, 0] - 2).sigmoid(), x, target)
    classes = judged(lambda x, y, i: torch.stack([torch.zeros(len(x)), 1.5 * x[:, 0] - 2], 1), x, target.long())
    for detector in (one, other):
        assert not detector.verdict.alarmed
        for name in ("skill", "macro_f1", "association"):
            assert detector.history[-1][1][name] == pytest.approx(classes.history[-1][1][name], rel=1e-3), name


def pictures() -> tuple[Tensor, Tensor]:
    """Images whose bright pixels, one in 25, are the other class; a border that is not labelled (255)."""
    draw = torch.Generator().manual_seed(6)
    label = (torch.rand(512, 12, 12, generator=draw) < 0.04).long()
    image = label.float() + 0.3 * torch.randn(512, 12, 12, generator=draw)
    label[:, 0] = 255
    label[:, -1] = -100
    return image, label


def both(foreground: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(foreground), foreground], 1)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda x, y, i: both(6 * x - 3), ""),
        (lambda x, y, i: both(0.7 * x - 4), "prediction collapse"),
        (lambda x, y, i: both((0.3 + 0.1 * i) * x - 4), ""),
        (lambda x, y, i: both(torch.full_like(x, -3.2)), "inputs ignored"),
    ],
    ids=["learned", "all background", "not yet", "constant"],
)
def test_all_background_is_a_collapse_even_where_the_skill_is_above_0(make: Any, cause: str) -> None:
    detector = judged(make, *pictures(), batch=16, every_n_steps=2)
    assert detector.verdict.cause == cause
    values = detector.history[-1][1]
    if cause == "prediction collapse":
        assert values["skill"] > 0
        assert values["balanced_skill"] == 0.0
        assert "balanced skill 0.000" in detector.verdict.reasons[0]
        assert values["association"] > 2


def test_samples_seen_before_are_no_evidence() -> None:
    """Labels learnt by heart: on known samples a significant association is one of memory, and 2 % of skill count."""
    torch.manual_seed(7)
    x, memory = inputs(256), torch.randint(2, (256,))
    data = torch.utils.data.TensorDataset(x, memory)
    by_heart = lambda x, y, i: torch.nn.functional.one_hot(y, 2) * 0.02 + 0.04 * torch.randn(len(x), 2)  # noqa: E731
    detector = PredictionCollapse(every_n_steps=4, grace=0, action="log")
    trainer([detector], max_epochs=12).fit(Labelled(by_heart), DataLoader(data, batch_size=64))
    values = detector.history[-1][1]
    assert values["seen_before"] == 1.0
    assert values["_score"] > 1
    assert detector.verdict.cause == "labels do not follow from inputs"
    assert "on samples that were seen before" in detector.verdict.reasons[0]


def test_not_yet_is_a_state_without_an_action() -> None:
    torch.manual_seed(8)
    x = inputs()
    detector = judged(lambda x, y, i: 0.1 * torch.randn(len(x), 3), x, torch.randint(3, (len(x),)), grace=16)
    states = [values["not_yet"] for _, values in detector.history]
    assert 1.0 in states
    assert states[-1] == 0.0
    assert detector.verdict.step > 3 * 16 - 2


# -- depth, bounded outputs, sparse codes ---------------------------------------------------------------------------------


class Depth(Classifier):
    """Layers of which each keeps half of the dimensions of the one before it, or all."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep, self.blocks = keep, nn.ModuleList(nn.Identity() for _ in range(4))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        h = torch.randn(len(batch[0]), 32)
        for depth, block in enumerate(self.blocks):
            h = block(h * (torch.arange(32) < 32 * self.keep**depth))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("keep", "cause"), [(0.5, "oversmoothing"), (1.0, "")])
def test_a_rank_that_falls_with_depth_is_oversmoothing(keep: float, cause: str) -> None:
    layers = [f"blocks.{i}" for i in range(4)]
    detector = RepresentationCollapse(layers, **QUICK, action="log")
    fit(Depth(keep), [detector], n=1792, batch=128)
    assert detector.verdict.cause == cause
    ranks = [detector.history[-1][1][f"rank_share/{layer}"] for layer in layers]
    assert ranks == pytest.approx([keep**i for i in range(4)], rel=0.1)
    draw = detector.watch.probe.figure(detector.history)
    assert draw is not None and draw() is not None


def test_bad_lists_of_layers_are_refused() -> None:
    for layer in (["a"], ["a", "a"], []):
        with pytest.raises(ValueError, match="a list must name two different layers or more"):
            RepresentationCollapse(layer)
    with pytest.raises(TypeError, match="layer must be a name"):
        RepresentationCollapse(["a", 3])  # type: ignore[list-item]
    with pytest.raises(TrickError, match=r"blocks\.9'?\): there is no such module|there is no such module"):
        fit(Depth(1.0), [RepresentationCollapse(["blocks.0", "blocks.9"])])


def test_a_classifier_whose_classes_are_points_has_the_rank_that_is_possible() -> None:
    class Points(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Identity()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.embedding(torch.eye(64)[batch[1]] + 1e-4 * torch.randn(len(batch[1]), 64))
            return super().training_step(batch, batch_idx)

    detector = RepresentationCollapse("embedding", **QUICK, action="raise")
    fit(Points(), [detector], n=1792, batch=128)
    assert detector.history[-1][1]["rank_share"] > 0.9
    assert detector.history[-1][1]["effective_rank"] < 0.2 * 64


class Bounded(Classifier):
    """A sigmoid at the end of its range, with or without a layer behind it."""

    def __init__(self, width: int, behind: bool) -> None:
        super().__init__(lambda p: sgd(p, lr=1e-6))
        self.inner, self.act = nn.Linear(64, width), nn.Sigmoid()
        self.head = nn.Linear(width, 10) if behind else nn.Identity()
        nn.init.constant_(self.inner.bias, -30.0)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.head(self.act(self.inner(batch[0]))).square().mean()


@pytest.mark.parametrize(
    ("width", "behind", "alarmed"),
    [(10, False, False), (64, True, False), (10, True, True)],
    ids=["the output", "a sample that another network looks at", "hidden"],
)
def test_a_sigmoid_that_bounds_the_output_may_lie_at_its_ends(width: int, behind: bool, alarmed: bool) -> None:
    detector = DeadUnits(["act"], **QUICK, action="log")
    fit(Bounded(width, behind), [detector], n=1792, batch=128)
    assert detector.history[-1][1]["saturated/act"] == 1.0
    assert detector.verdict.alarmed is alarmed
    state = detector.state_dict()["state"]
    assert state["outputs"] == ([] if alarmed else ["act"])


def test_noise_that_a_young_generator_loses_is_no_diversity_and_few_distinct_tokens_are() -> None:
    judge = Judge("GenerationDrift", {}, lambda _: 1.0)
    numbers, tokens = (GenerationsProbe("sample", 64) for _ in range(2))
    tokens._whole = True
    for probe in (numbers, tokens):
        probe._names = ["diversity"]
        probe.read([3.0], judge)
    assert numbers.read([1.0], judge)["diversity"] == 1.0
    assert tokens.read([1.0], judge)["diversity"] == pytest.approx(1 / 3)
