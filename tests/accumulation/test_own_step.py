from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_tricks import GradientAccumulation, TrickError, TrickWarning
from tests.accumulation.problems import Hungry, big_batches, errors, feed, ragged, run
from tests.problems import Classifier, Memory, network, sgd, trainer

SIZES = (8, 8, 8, 8, 5, 8, 3, 8, 8, 2)


@pytest.mark.parametrize("drop", [{0}, {3}, {2, 3}, {0, 1, 2, 3}, {9}])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("on_oom", ["raise", "split"])
def test_micro_batches_without_a_loss_count_nothing(drop: set[int], precision: str, on_oom: Any) -> None:
    data = ragged(SIZES)
    module = Classifier(spoil=lambda i, loss: None if i in drop else loss)
    trick = GradientAccumulation(4, on_oom=on_oom)
    measured, t = run(trick, data, module=module, precision=precision, init_scale=1.0)
    kept = [[i for i in window if i not in drop] for window in (range(4), range(4, 8), range(8, 10))]
    oracle = big_batches([data[i] for w in kept for i in w], [len(w) for w in kept if w])
    measured = [row for row in measured if row.numel()]
    assert max(errors(measured, oracle)) <= (1e-6 if precision == "32-true" else 5e-3)


def test_under_a_scaler_lightning_throws_such_a_window_away() -> None:  # until lightning>2.6.6 (#16228)
    module = Classifier(spoil=lambda i, loss: None if i == 3 else loss)
    t = trainer([], precision="16-mixed", init_scale=1.0, accumulate_grad_batches=4)
    t.fit(module, feed(ragged([8] * 4)))
    assert t.global_step == 1
    for p, q in zip(module.net.parameters(), network().parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("batches", [1, 2, 3])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_batch_that_does_not_fit_is_split_and_the_gradient_stays(where: str, batches: int, precision: str) -> None:
    data = ragged((8, 8, 5, 8, 8, 8))
    module, trick = Hungry(3, where), GradientAccumulation(batches, on_oom="split")
    with pytest.warns(TrickWarning, match=r"no memory for a batch of 8 .*goes on with 2 samples at a time") as told:
        measured, _ = run(trick, data, module=module, precision=precision, init_scale=1.0)
    assert len([w for w in told if issubclass(w.category, TrickWarning)]) == 1
    windows = [len(data[i : i + batches]) for i in range(0, len(data), batches)]
    limit = 1e-6 if precision == "32-true" else 5e-3
    assert max(errors(measured, big_batches(data, windows))) <= limit
    assert trick.max_split_size == 2
    assert module.tries == 4 + 4 * 4 + 3, "4 parts of 8 samples and 3 of 5; what failed has not happened"


def test_a_failed_try_leaves_no_trace_in_buffers_random_numbers_and_logs() -> None:
    data, logger = ragged((8, 8)), Memory()

    module = Hungry(4)
    with pytest.warns(TrickWarning):
        run(GradientAccumulation(1, on_oom="split"), data[:1], module=module, logger=logger)
    assert int(module.norm.num_batches_tracked) == 2, "the two parts, and not the try with the whole batch"
    first, second = module.noise  # (that of the failed try was put back)
    assert not torch.equal(first, second)
    whole = Hungry(8)
    run(GradientAccumulation(1, on_oom="split"), data[:1], module=whole)
    assert torch.equal(first, whole.noise[0]), "the first part draws what the failed try drew"
    expected = float(cross_entropy(network()(data[0][0]), data[0][1]).detach())
    assert logger.series("loss")[0] == pytest.approx(expected, rel=1e-6), "the mean over the parts"


def test_outputs_of_the_parts_are_put_together() -> None:
    seen: dict[str, Any] = {}

    class See(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.update(outputs)

    data = ragged((8,))
    with pytest.warns(TrickWarning):
        run(GradientAccumulation(1, on_oom="split"), data, See(), module=Hungry(3))
    expected = network()(data[0][0])
    torch.testing.assert_close(seen["logits"], expected)
    assert seen["note"] == "kept"
    assert float(seen["loss"]) == pytest.approx(float(cross_entropy(expected, data[0][1]).detach()), rel=1e-6)


def test_without_a_shortage_splitting_changes_nothing() -> None:
    data = ragged(SIZES)
    plain, split = Classifier(), Classifier()
    run(GradientAccumulation(4), data, module=plain)
    run(GradientAccumulation(4, on_oom="split"), data, module=split)
    for p, q in zip(plain.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert "training_step" not in vars(split)


def test_a_sample_that_does_not_fit_is_told_and_other_errors_pass_through() -> None:
    with pytest.raises(TrickError, match="a single sample does not fit into memory"):
        run(GradientAccumulation(1, on_oom="split"), ragged((8,)), module=Hungry(0))

    def wrong(i: int, loss: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    module = Classifier(spoil=wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(GradientAccumulation(1, on_oom="split"), ragged((8,)), module=module)
    assert "training_step" not in vars(module)


def test_parts_of_an_own_function_that_never_fit_are_told() -> None:
    trick = GradientAccumulation(1, on_oom="split", split_fn=lambda batch, parts: [batch] * parts)
    with pytest.raises(TrickError, match="4096 parts do not fit into memory"):
        run(trick, ragged((8,)), module=Hungry(4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device whose memory can run out")
def test_a_real_shortage_of_a_gpu_is_survived() -> None:
    class Large(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(64, 1)
            free, _ = torch.cuda.mem_get_info()
            self.columns = free // (4 * 16 * 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            wide = self.net(x).expand(len(x), self.columns) * 1.0  # 16 rows need several times what is free
            return (wide * wide).mean()

        def configure_optimizers(self) -> Any:
            return sgd(self.parameters(), lr=1e-3)

    trick = GradientAccumulation(1, on_oom="split")
    with pytest.warns(TrickWarning, match="no memory for a batch of 16"):
        trainer([trick], accelerator="cuda", devices=1).fit(Large(), feed(ragged((16, 16))))
    assert trick.max_split_size is not None and trick.max_split_size < 16
