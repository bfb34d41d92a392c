"""Batches of other forms, micro-batches that count nothing, and windows that are not what was planned."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

from lightning_tricks import GradientAccumulation, TrickError, TrickWarning
from tests.accumulation.problems import Gradients, errors, feed, flat, ragged, run
from tests.problems import Classifier, Memory, network, sgd, trainer

# -- batches of other forms -------------------------------------------------------------------------------------------


class Detector(L.LightningModule):
    """The mean over images of a loss per image; images of several sizes in a list, targets as dicts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = [
            (self.net(image.mean((1, 2))) - target["boxes"]).square().sum()
            for image, target in zip(*batch, strict=True)
        ]
        return torch.stack(losses).mean()

    def configure_optimizers(self) -> Any:
        return sgd(self.parameters())


def scenes(n: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(3, 4 + i % 3, 5, generator=draw), {"boxes": torch.randn(i % 4, 4, generator=draw)})
        for i in range(n)
    ]


def zipped(rows: Any) -> Any:
    return tuple(zip(*rows, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("on_oom", ["raise", "split"])
def test_detection_batches_of_any_size_give_the_big_batchs_gradient(size: int, on_oom: Any) -> None:
    data, trick, noted = scenes(14), GradientAccumulation(20, on_oom=on_oom), Gradients()
    loader = DataLoader(data, batch_size=size, collate_fn=zipped)  # type: ignore[arg-type]
    trainer([trick, noted]).fit(Detector(), loader)
    big = Detector()
    big.training_step(zipped(data), 0).backward()
    assert errors(noted.rows, [flat(big.net)])[0] <= 1e-6
    assert trick.effective_batch_size == 14


class Packed(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.GRU(2, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        hidden, lengths = pad_packed_sequence(self.net(batch)[0])
        return (hidden.sum((0, 2)) / lengths).square().mean()

    def configure_optimizers(self) -> Any:
        return sgd(self.parameters())


def test_packed_sequences_give_the_big_batchs_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    sequences = [torch.randn(2 + i, 2, generator=draw) for i in range(7)]
    batches = [pack_sequence(sequences[a:b], enforce_sorted=False) for a, b in ((0, 3), (3, 6), (6, 7))]
    measured, _ = run(GradientAccumulation(3), batches, module=Packed())
    big = Packed()
    big.training_step(pack_sequence(sequences, enforce_sorted=False), 0).backward()
    assert errors(measured, [flat(big.net)])[0] <= 1e-6


def test_a_batch_whose_samples_cannot_be_told_is_an_error_that_names_the_way_out() -> None:
    class Weighted(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return cross_entropy(self.net(batch["x"]), batch["y"], batch["class_weights"])

    data = [{"x": x, "y": y, "class_weights": torch.ones(10)} for x, y in ragged((8, 8, 4))]
    with pytest.raises(TrickError, match=r"differ \(8 and 10\)\. Pass weight=, a function of the batch"):
        run(GradientAccumulation(3), data, module=Weighted())
    trick = GradientAccumulation(3, weight=lambda batch: len(batch["x"]))
    run(trick, data, module=Weighted())
    assert trick.effective_batch_size == 20, "as the weights say"


# -- weights that are tensors -----------------------------------------------------------------------------------------


class Masked(Classifier):
    """A mean over what a mask leaves: 0 / 0 where it leaves nothing, and the gradient of that is NaN."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        x = x.to(next(self.parameters()).dtype)
        kept = (y >= 0).to(x.dtype)
        loss = cross_entropy(self.net(x), y.clamp(min=0), reduction="none")
        return (loss * kept).sum() / kept.sum()


def masked(sizes: tuple[int, ...], empty: set[int]) -> list[Any]:
    return [
        (x, torch.where((torch.arange(len(y)) % 3 == 0) | torch.tensor(i in empty), -100, y))
        for i, (x, y) in enumerate(ragged(sizes))
    ]


def masked_oracle(data: list[Any], window: int) -> list[Tensor]:
    """Plain torch in float64, each window one batch; a window of which nothing counts has gradients of zero."""
    net, rows = copy.deepcopy(network()).double(), []
    for at in range(0, len(data), window):
        x, y = (torch.cat(part) for part in zip(*data[at : at + window], strict=True))
        net.zero_grad(set_to_none=False)
        if (y >= 0).any():
            cross_entropy(net(x.double()), y).backward()
        found = flat(net)
        rows.append(found if found.numel() else torch.zeros(sum(p.numel() for p in net.parameters())))
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.05 * (0.0 if p.grad is None else p.grad)
    return rows


SIZES = (8, 8, 8, 5, 8, 8, 3)


@pytest.mark.parametrize("empty", [set(), {0}, {2}, {1, 2}, {4}, {3, 4, 6}])
@pytest.mark.parametrize("on_oom", ["raise", "split"])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_micro_batch_of_which_nothing_counts_is_left_out_also_where_its_gradient_is_nan(
    empty: set[int], on_oom: Any, on_device: bool, monkeypatch: Any
) -> None:
    if on_device:
        monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    data = masked(SIZES, empty)
    module = Masked()
    measured, _ = run(GradientAccumulation(3, weight="tokens", on_oom=on_oom), data, module=module)
    measured = [row if row.numel() else torch.zeros_like(measured[0]) for row in measured]  # (no gradient is one of 0)
    for got, expected in zip(measured, masked_oracle(data, 3), strict=True):
        assert float((got - expected).norm()) <= 2e-6 * max(1.0, float(expected.norm()))
    assert all(not p._backward_hooks for p in module.parameters()), "nothing is left behind"


@pytest.mark.parametrize("on_device", [False, True])
def test_sparse_gradients_are_left_out_too(on_device: bool, monkeypatch: Any) -> None:
    if on_device:
        monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)

    class Words(Masked):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            kept = (batch[1] >= 0).float()
            return (self.net(batch[0]).square().sum(1) * kept).sum() / kept.sum()

    torch.manual_seed(0)
    table = nn.Embedding(9, 4, sparse=True)
    word = torch.arange(12).reshape(3, 4) % 9
    data = [(word[0], torch.tensor([1, 1, -1, 1])), (word[1], -torch.ones(4).long()), (word[2], torch.ones(4).long())]
    big = copy.deepcopy(table).double()
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    big(x)[y >= 0].square().sum(1).mean().backward()
    rows: list[Tensor] = []

    class See(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            rows.append(pl_module.net.weight.grad.to_dense().double())

    trainer([GradientAccumulation(3, weight="tokens"), See()]).fit(Words(net=table), feed(data))
    torch.testing.assert_close(rows[0], big.weight.grad.to_dense(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "bf16-mixed", "32-true", "64-true"])
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("on_oom", ["raise", "split"])
@pytest.mark.parametrize(
    "weight", ["tokens", lambda batch: (batch[1] >= 0).sum(), lambda batch: (batch[1] >= 0).half().sum()]
)
def test_weights_may_be_tensors_in_every_precision(
    precision: Any, on_device: bool, on_oom: Any, weight: Any, monkeypatch: Any
) -> None:
    if on_device:
        monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    data = masked(SIZES, {1})
    measured, _ = run(GradientAccumulation(3, weight=weight, on_oom=on_oom), data, module=Masked(), precision=precision)
    limit = {"32-true": 2e-6, "64-true": 1e-7, "16-true": 1e-2}.get(precision, 6e-2)  # (the factor is float32)
    assert max(errors(measured[:1], masked_oracle(data, 3)[:1])) <= limit
    assert max(errors(measured, masked_oracle(data, 3))) <= 4 * limit


def test_weights_on_a_device_are_not_read_but_for_the_first(monkeypatch: Any) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += "local_scalar" in str(func) or "nonzero" in str(func) or "is_nonzero" in str(func)
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)

    def reads(batches: int, tricks: list[Any]) -> int:
        with Reads() as mode:
            trainer(tricks, log_every_n_steps=10_000).fit(Masked(), feed(masked((8,) * batches, {2})))
        return mode.count

    for on_oom in ("raise", "split"):
        more = [reads(n, [GradientAccumulation(4, weight="tokens", on_oom=on_oom)]) - reads(n, []) for n in (8, 24)]
        assert more[0] == more[1], "as many for 8 batches as for 24"


# -- parts of a batch --------------------------------------------------------------------------------------------------


class Logging(Masked):
    """Logs what trainings log, once each; fails with more than ``room`` samples."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        losses = cross_entropy(self.net(x), y.clamp(min=0), reduction="none")
        kept = y >= 0
        loss = losses[kept].mean()
        each = {"on_step": True, "on_epoch": True, "batch_size": int(kept.sum())}
        self.log("mean", loss, **each)
        self.log("mean_too", loss, reduce_fx=torch.mean, **each)
        self.log("sum", losses[kept].sum(), reduce_fx="sum", **each)
        self.log("count", int(kept.sum()), reduce_fx=torch.sum, **each)  # type: ignore[arg-type]
        self.log("max", losses[kept].max() if kept.any() else loss, reduce_fx="max", **each)
        self.log("min", losses[kept].min() if kept.any() else loss, False, True, True, True, torch.min)
        self.log_dict({"dict": losses[kept].sum()}, reduce_fx="SUM", on_epoch=True)
        return loss


@pytest.mark.parametrize("room", [4, 2, 1])
@pytest.mark.parametrize("on_device", [False, True])
def test_logs_of_a_split_batch_are_those_of_the_whole_one(room: int, on_device: bool, monkeypatch: Any) -> None:
    if on_device:
        monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)
    data = [(x, torch.where(torch.arange(len(y)) < i + 2, -100, y)) for i, (x, y) in enumerate(ragged((8, 8, 5)))]

    def logged(room: int) -> tuple[dict[str, float], Memory, list[Tensor]]:
        logger, trick = Memory(), GradientAccumulation(1, weight="tokens", on_oom="split")
        rows, t = run(trick, data, module=Logging(room), logger=logger)
        return {name: float(value) for name, value in t.callback_metrics.items()}, logger, rows

    expected, whole, right = logged(8)
    with pytest.warns(TrickWarning, match="no memory"):
        values, split, rows = logged(room)
    assert set(values) == set(expected)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name
    for name in ("mean_step", "sum_step", "count_step", "max_step", "min_step"):
        assert split.series(name) == pytest.approx(whole.series(name), rel=1e-5)
    assert max(errors(rows, right)) <= 2e-6, "parts of which nothing counts add no NaN"


# -- windows that are not what was planned ----------------------------------------------------------------------------


class Early(Masked):
    """Ends each epoch before a batch."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == self.last else None


def plain_windows(windows: list[list[Any]]) -> list[Tensor]:
    """Plain torch: each window of batches is one batch."""
    net, rows = copy.deepcopy(network()), []
    for window in windows:
        x, y = (torch.cat(part) for part in zip(*window, strict=True))
        net.zero_grad()
        cross_entropy(net(x), y).backward()
        rows.append(flat(net))
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.05 * p.grad
    return rows


@pytest.mark.parametrize("arguments", [{"batches": 4}, {"batches": {0: 4}}, {"target_batch_size": 32}], ids=str)
@pytest.mark.parametrize("last", [5, 6, 7, 4])
@pytest.mark.parametrize("on_oom", ["raise", "split"])
def test_after_an_epoch_that_ends_in_mid_window_the_next_window_is_whole(
    arguments: Any, last: int, on_oom: Any
) -> None:
    data, logger = ragged((8,) * 10), Memory()
    trick = GradientAccumulation(**arguments, on_oom=on_oom)
    measured, t = run(trick, data, module=Early(last), max_epochs=3, logger=logger)
    assert max(errors(measured, plain_windows([data[:4]] * 3))) <= 2e-6
    assert list(logger.series("accumulation/window").values()) == [4] * 3
    assert list(logger.series("accumulation/batch_size").values()) == [32] * 3


def test_a_first_batch_of_none_does_not_bring_back_the_gradients_of_a_window_that_was_given_up() -> None:
    data = ragged((8,) * 12)
    with pytest.warns(UserWarning, match="yielded None"):
        measured, _ = run(GradientAccumulation(4), [None, *data], module=Early(7), max_epochs=2)
    assert max(errors(measured, plain_windows([data[:3], data[:3]]))) <= 2e-6


class Discarding(Masked):
    """Throws the gradients of a window away after the batches ``after``."""

    def __init__(self, where: str, after: set[int], to_none: bool, owner: str) -> None:
        super().__init__()
        self.where, self.after, self.to_none, self.owner = where, after, to_none, owner
        self.number = -1

    def _discard(self, where: str, batch_idx: int) -> None:
        if where == self.where and batch_idx in self.after:
            owner = self.optimizers() if self.owner == "optimizer" else self
            owner.zero_grad(set_to_none=self.to_none)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self._discard("training_step", batch_idx - 1)
        self.number = batch_idx
        return super().training_step(batch, batch_idx)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._discard("on_train_batch_start", batch_idx - 1)

    def on_after_backward(self) -> None:
        self._discard("on_after_backward", self.number)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._discard("on_train_batch_end", batch_idx)


@pytest.mark.parametrize("where", ["training_step", "on_train_batch_start", "on_after_backward", "on_train_batch_end"])
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("owner", ["optimizer", "module"])
@pytest.mark.parametrize("arguments", [{"batches": 4}, {"batches": {0: 4}}, {"target_batch_size": 24}], ids=str)
def test_gradients_that_the_user_throws_away_no_longer_count(
    where: str, to_none: bool, owner: str, arguments: Any
) -> None:
    data = ragged((8, 3, 8, 5, 8, 8, 8, 8, 8, 8, 8, 8))
    measured, _ = run(GradientAccumulation(**arguments), data, module=Discarding(where, {1, 5}, to_none, owner))
    sizes = [len(x) for x, _ in data]
    windows: list[list[Any]] = []
    now: list[int] = []
    for i in range(len(data)):
        now.append(i)
        if where == "on_after_backward" and i in (1, 5):
            now = []  # before the step, which then is none
            continue
        if "target_batch_size" in arguments:
            full = sum(sizes[j] for j in now) >= 24
        else:  # (with one number, Lightning's own count of batches goes on)
            full = len(now) == 4 if isinstance(arguments["batches"], dict) else i % 4 == 3
        if full or i == len(data) - 1:
            windows.append([data[j] for j in now])
            now = []
        elif i in (1, 5):
            now = []
    measured = [row for row in measured if row.any()]
    assert max(errors(measured, plain_windows(windows))) <= 2e-6


def test_a_micro_batch_whose_loss_depends_on_no_weight_counts_as_one_of_gradient_zero() -> None:
    """Its gradients are missing, but nobody has thrown them away."""

    class Constant(Masked):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) if batch_idx else self.dummy.square().sum()

        def configure_optimizers(self) -> Any:
            return sgd(self.net.parameters())

    module, data = Constant(), ragged((8, 8, 4))
    module.dummy = nn.Parameter(torch.ones(1))  # is in no optimizer
    measured, _ = run(GradientAccumulation(3), data, module=module)
    assert errors(measured, [plain_windows([data[1:]])[0] * (12 / 20)])[0] <= 2e-6
