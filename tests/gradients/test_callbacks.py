from __future__ import annotations

import copy
import itertools
import math
import warnings
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from lightning_tricks import (
    AGC,
    AdaGC,
    AutoClip,
    ClipNorm,
    ClipValue,
    ConflictError,
    GradientClip,
    GradientMonitor,
    NonFiniteError,
    TrickError,
    TrickWarning,
    UnsupportedError,
    ZClip,
)
from tests.gradients.problems import Gan, host_reads
from tests.problems import Classifier, Memory, digits, fit, loader, network, plain_loop, sgd, trainer, weights

PRECISIONS = ["32-true", "bf16-mixed", "16-mixed"]
FORMS = [(p, f, m) for p, f, m in itertools.product(PRECISIONS, (False, True), (False, True))]


def fused_sgd(parameters: Any) -> Any:
    return sgd(parameters, fused=True)


def adamw(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=1e-2)


def fused_adamw(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=1e-2, fused=True)


def unfused_adamw(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=1e-2, foreach=True)


def global_norm(gradients: dict[str, torch.Tensor], p: float = 2.0) -> float:
    return float(torch.cat([g.reshape(-1) for g in gradients.values()]).norm(p))


# -- clipping is right ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "fused", "manual"), FORMS)
def test_clip_by_norm_gives_the_weights_of_torchs_own_clip(precision: str, fused: bool, manual: bool) -> None:
    net, history = plain_loop(lambda p: nn.utils.clip_grad_norm_(p, 4.5), precision=precision)
    norms = [global_norm(g) for g in history]
    assert min(norms) < 4.5 < max(norms), "the threshold must matter in some updates and not in others"
    module = Classifier(fused_sgd if fused else sgd, manual=manual)
    fit(module, [GradientClip(4.5)], precision=precision)
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("precision", "fused", "manual"), FORMS)
def test_clip_by_value_gives_the_weights_of_torchs_own_clip(precision: str, fused: bool, manual: bool) -> None:
    net, _ = plain_loop(lambda p: nn.utils.clip_grad_value_(p, 0.02), precision=precision)
    module = Classifier(fused_sgd if fused else sgd, manual=manual)
    fit(module, [GradientClip(ClipValue(0.02))], precision=precision)
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("norm_type", [1.0, 3.0, math.inf])
def test_other_norms_clip_as_torch_does(norm_type: float, fused: bool) -> None:
    limit = {1.0: 10.0, 3.0: 0.4, math.inf: 0.15}[norm_type]
    net, history = plain_loop(lambda p: nn.utils.clip_grad_norm_(p, limit, norm_type))
    assert max(global_norm(g, norm_type) for g in history) > limit
    module = Classifier(fused_sgd if fused else sgd)
    fit(module, [GradientClip(ClipNorm(limit, norm_type))])
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "fused"), list(itertools.product(PRECISIONS, (False, True))))
def test_per_layer_clips_every_parameter_by_itself(precision: str, fused: bool) -> None:
    def clip(parameters: list[nn.Parameter]) -> None:
        for p in parameters:
            nn.utils.clip_grad_norm_([p], 0.2)

    net, _ = plain_loop(clip, precision=precision)
    module = Classifier(fused_sgd if fused else sgd)
    fit(module, [GradientClip(0.2, per="layer")], precision=precision)
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_per_group_clips_named_groups_and_the_rest(fused: bool) -> None:
    def clip(parameters: list[nn.Parameter]) -> None:
        nn.utils.clip_grad_norm_(parameters[-2:], 0.3)
        nn.utils.clip_grad_norm_(parameters[:-2], 0.3)

    net, _ = plain_loop(clip)
    module = Classifier(fused_sgd if fused else sgd)
    fit(module, [GradientClip(0.3, per="group", groups={"head": r"^net\.4\."})])
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=1e-6)


def test_per_group_without_names_takes_the_optimizers_groups() -> None:
    def two_groups(parameters: Any) -> Any:
        p = list(parameters)
        return sgd([{"params": p[:2], "name": "first"}, {"params": p[2:]}])

    def clip(parameters: list[nn.Parameter]) -> None:
        nn.utils.clip_grad_norm_(parameters[:2], 0.3)
        nn.utils.clip_grad_norm_(parameters[2:], 0.3)

    net, _ = plain_loop(clip)
    module, trick = Classifier(two_groups), GradientClip(0.3, per="group")
    fit(module, [trick])
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=1e-6)
    assert set(trick.suggested_threshold) == {"first", "group1"}


@pytest.mark.parametrize("accumulate", [2, 5])
@pytest.mark.parametrize("fused", [False, True])
def test_accumulated_gradients_are_clipped_once_per_window(accumulate: int, fused: bool) -> None:
    net, history = plain_loop(lambda p: nn.utils.clip_grad_norm_(p, 0.7), accumulate=accumulate)
    module, logger = Classifier(fused_sgd if fused else sgd), Memory()
    fit(module, [GradientMonitor(per_layer=True), GradientClip(0.7)], accumulate_grad_batches=accumulate, logger=logger)
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=1e-6)
    logged = list(logger.series("grad/norm").values())
    assert logged == pytest.approx([global_norm(g) for g in history], rel=1e-4)


@pytest.mark.parametrize("make", [fused_adamw, unfused_adamw])
def test_adamw_is_clipped_too(make: Any) -> None:
    net, _ = plain_loop(lambda p: nn.utils.clip_grad_norm_(p, 0.5), make_optimizer=unfused_adamw)
    module = Classifier(make)
    fit(module, [GradientClip(0.5)])
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-4, atol=1e-5)


# -- where Lightning refuses or is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_lightning_refuses_to_clip_with_a_fused_optimizer_and_we_do_not(precision: str) -> None:
    net, _ = plain_loop(lambda p: nn.utils.clip_grad_norm_(p, 1.0), precision=precision)
    theirs = Classifier(fused_sgd)
    try:
        fit(theirs, precision=precision, gradient_clip_val=1.0)
    except RuntimeError as error:  # Lightning #21435
        assert "does not allow for gradient clipping" in str(error)
    else:  # after 2.6.6 it clips in bf16-mixed
        assert precision == "bf16-mixed"
        torch.testing.assert_close(weights(theirs), weights(net), rtol=1e-5, atol=2e-6)
    module = Classifier(fused_sgd)
    fit(module, [GradientClip(1.0)], precision=precision)
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=2e-6)


def test_lightnings_recipe_for_manual_optimization_clips_scaled_gradients_and_we_do_not() -> None:
    seen: dict[str, list[float]] = {"recipe": [], "ours": []}

    class Watch(L.Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            def note(optimizer: Any, args: Any, kwargs: Any) -> None:
                gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
                seen[self.name].append(float(nn.utils.get_total_norm(gradients)))

            trainer.optimizers[0].register_step_post_hook(note)

    class Recipe(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=0.3, gradient_clip_algorithm="norm")
            optimizer.step()

    fit(Recipe(manual=True), [Watch("recipe")], precision="16-mixed")
    fit(Classifier(manual=True), [Watch("ours"), GradientClip(0.3)], precision="16-mixed")
    assert max(seen["recipe"]) == pytest.approx(0.3 / 1024, rel=0.05)  # Lightning #18089: clipped, then divided
    assert max(seen["ours"]) == pytest.approx(0.3, rel=1e-3)


# -- several optimizers -----------------------------------------------------------------------------------------------


def test_a_gans_norms_are_of_the_stepping_optimizers_parameters_only() -> None:
    module, logger = Gan(), Memory()
    fit(module, [GradientMonitor(per_layer=True)], n=32, logger=logger)
    for index, name in enumerate(("discriminator", "generator")):
        assert list(logger.series(f"grad/norm/optimizer{index}").values()) == pytest.approx(module.true[name], rel=1e-4)


def test_a_gan_takes_a_threshold_per_optimizer() -> None:
    module = Gan()
    clips = [
        GradientClip(0.1, groups={"d": "^discriminator"}),
        GradientClip(0.02, groups={"g": "^generator"}),
    ]
    fit(module, clips, n=32)
    for name, limit in (("discriminator", 0.1), ("generator", 0.02)):
        expected = [min(norm, limit * norm / (norm + 1e-6)) for norm in module.true[name]]
        assert module.applied[name] == pytest.approx(expected, rel=1e-3)
        assert min(module.true[name]) > 0


# -- what the monitor says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "fused", "manual"), FORMS)
def test_the_monitor_logs_the_true_norms_before_the_clip(precision: str, fused: bool, manual: bool) -> None:
    _, history = plain_loop(lambda p: nn.utils.clip_grad_norm_(p, 1.0), precision=precision)
    logger = Memory()
    monitor = GradientMonitor(per_layer=True, groups={"body": r"^net\.[0-3]\.", "head": r"^net\.4\."})
    fit(
        Classifier(fused_sgd if fused else sgd, manual=manual),
        [GradientClip(1.0), monitor],
        precision=precision,
        logger=logger,
    )
    tolerance = {"32-true": 1e-5, "bf16-mixed": 5e-3, "16-mixed": 5e-4}[precision]
    assert list(logger.series("grad/norm").values()) == pytest.approx([global_norm(g) for g in history], rel=tolerance)
    assert list(logger.series("grad/norm_log10").values()) == pytest.approx(
        [math.log10(global_norm(g)) for g in history], abs=tolerance
    )
    for name in history[0]:
        expected = [float(g[name].norm()) for g in history]
        assert list(logger.series(f"grad/norm/net.{name}").values()) == pytest.approx(expected, rel=tolerance, abs=1e-6)
    for group, own in (("body", "0123"), ("head", "4")):
        expected = [global_norm({n: t for n, t in g.items() if n[0] in own}) for g in history]
        assert list(logger.series(f"grad/group/{group}").values()) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("p", [1.0, 4.0, math.inf])
def test_the_monitor_takes_any_norm(p: float) -> None:
    _, history = plain_loop()
    logger = Memory()
    fit(Classifier(), [GradientMonitor(per_layer=True, norm_type=p, groups={"head": r"^net\.4\."})], logger=logger)
    assert list(logger.series("grad/norm").values()) == pytest.approx([global_norm(g, p) for g in history], rel=1e-5)
    heads = [global_norm({n: t for n, t in g.items() if n[0] == "4"}, p) for g in history]
    assert list(logger.series("grad/group/head").values()) == pytest.approx(heads, rel=1e-5)


def test_the_monitor_logs_at_lightnings_steps() -> None:
    logger = Memory()
    module = Classifier()
    fit(module, [GradientMonitor(per_layer=True)], logger=logger, log_every_n_steps=5)
    assert sorted(logger.series("grad/norm")) == [4, 9]
    logger = Memory()
    fit(Classifier(), [GradientMonitor(every_n_steps=4)], logger=logger, log_every_n_steps=5)
    assert sorted(logger.series("grad/norm")) == [3, 7, 11]
    assert logger.series("trainer/updates") == {3: 4.0, 7: 8.0, 11: 12.0}


def test_per_layer_off_leaves_the_total_alone() -> None:
    logger = Memory()
    fit(Classifier(), [GradientMonitor(per_layer=False)], logger=logger)
    keys = {key for _, row in logger.rows for key in row}
    assert "grad/norm" in keys
    assert not any(key.startswith("grad/norm/") for key in keys)


def test_a_checkpoint_callback_can_monitor_the_norm() -> None:
    t = fit(Classifier(), [GradientMonitor()])
    _, history = plain_loop()
    assert float(t.callback_metrics["grad/norm"]) == pytest.approx(global_norm(history[-1]), rel=1e-5)


def test_the_update_ratio_is_that_of_the_weights() -> None:
    module, logger = Classifier(), Memory()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    fit(module, [GradientMonitor(per_layer=True, update_ratio=True)], n=8, logger=logger)
    assert math.isnan(logger.series("grad/update_ratio/net.3.bias")[0]), "LayerNorm's bias starts at 0"
    for name, p in module.named_parameters():
        if name == "net.3.bias":
            continue
        expected = float((p.detach() - before[name]).norm() / before[name].norm())
        assert logger.series(f"grad/update_ratio/{name}")[0] == pytest.approx(expected, rel=1e-4)


def test_histograms_hold_the_gradients(tmp_path: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = L.loggers.TensorBoardLogger(str(tmp_path), name="run", version=0)
    fit(Classifier(), [GradientMonitor(histograms=True)], n=16, logger=logger)
    events = EventAccumulator(str(tmp_path / "run" / "version_0"), size_guidance={"histograms": 0}).Reload()
    assert "grad/histogram/net.4.bias" in events.Tags()["histograms"]
    _, history = plain_loop(n=16)
    first = events.Histograms("grad/histogram/net.4.bias")[0].histogram_value
    assert first.num == 10
    assert first.max == pytest.approx(float(history[0]["4.bias"].max()), rel=1e-5)


def test_histograms_without_a_logger_that_draws_them_are_said_to_be_useless() -> None:
    with pytest.warns(TrickWarning, match="no logger draws histograms"):
        fit(Classifier(), [GradientMonitor(histograms=True)], n=16, logger=Memory())


def test_the_noise_scale_is_that_of_the_formula() -> None:
    from tests.gradients.noise_oracle import noise_scales

    logger, monitor = Memory(), GradientMonitor(noise_scale=True)
    fit(Classifier(lambda p: sgd(p, lr=1e-9)), [monitor], accumulate_grad_batches=4, logger=logger)
    expected = noise_scales(network(), digits(96), batch=8, window=4, decay=0.95)
    assert list(logger.series("grad/noise_scale").values()) == pytest.approx(expected, rel=1e-3)
    assert monitor.suggested_batch_size == max(1, round(expected[-1]))


def test_the_noise_scale_needs_accumulation_and_automatic_optimization() -> None:
    with pytest.raises(TrickError, match="needs gradient accumulation"):
        fit(Classifier(), [GradientMonitor(noise_scale=True)])
    with pytest.raises(UnsupportedError, match="automatic optimization"):
        fit(Classifier(manual=True), [GradientMonitor(noise_scale=True)])


def test_the_monitor_counts_and_names_non_finite_gradients() -> None:
    class Still(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return closure()

    class Half(Classifier):
        def on_after_backward(self) -> None:
            if self.seen - 1 == 7:
                self.net[4].bias.grad[2] = float("inf")

    logger, monitor = Memory(), GradientMonitor(per_layer=True)
    module = Half(lambda p: Still(p, lr=0.0), spoil=nan_at(3, 4))
    with pytest.warns(TrickWarning, match=r"attempt 4: net\.0\.weight .*The loss was not finite either"):
        fit(module, [monitor], logger=logger, log_every_n_steps=6)
    assert logger.series("grad/nonfinite") == {5: 2.0, 11: 1.0}
    assert monitor.nonfinite_layers["net.4.bias"] == 3
    assert monitor.nonfinite_layers["net.0.weight"] == 2


# -- NaN and inf ------------------------------------------------------------------------------------------------------


def nan_at(*steps: int) -> Any:
    return lambda i, loss: loss * (float("nan") if i in steps else 1.0)


@pytest.mark.parametrize("make", [sgd, fused_sgd, lambda p: sgd(p, momentum=0.9), unfused_adamw, fused_adamw,
                                  lambda p: sgd(p, momentum=0.9, fused=True)])  # fmt: skip
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("bad", [(0,), (1, 4)])
def test_skip_leaves_out_the_bad_updates_and_nothing_else(make: Any, precision: str, bad: tuple[int, ...]) -> None:
    module = Classifier(make, spoil=nan_at(*bad))
    clip = GradientClip(1.0)
    with pytest.warns(TrickWarning, match="They were skipped"):
        fit(module, [clip], n=64, precision=precision)
    # oracle: the same loop without the bad batches
    data = digits(64)
    keep = [i for i in range(8) if i not in bad]
    kept = torch.utils.data.Subset(data, [8 * i + j for i in keep for j in range(8)])
    other = Classifier(make)
    trainer([GradientClip(1.0)], precision=precision).fit(other, torch.utils.data.DataLoader(kept, batch_size=8))
    assert torch.equal(weights(module), weights(other))
    assert clip.run.clock.applied_on_host(0) == len(keep)
    state = module.trainer.optimizers[0].state_dict()["state"]
    steps = {int(s["step"]) for s in state.values() if "step" in s}
    assert steps in (set(), {len(keep)})


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    "make", [sgd, unfused_adamw, fused_sgd, fused_adamw, lambda p: sgd(p, momentum=0.9, fused=True)]
)
@pytest.mark.parametrize("bad", [(0,), (1, 4)])
def test_skip_on_the_device_gives_the_weights_of_skip_on_the_host(
    make: Any, bad: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_device, on_host = Classifier(make, spoil=nan_at(*bad)), Classifier(make, spoil=nan_at(*bad))
    clip = GradientClip(4.5)
    with pytest.warns(TrickWarning, match="They were skipped"):
        fit(on_device, [clip], n=64)
    monkeypatch.undo()
    with pytest.warns(TrickWarning, match="They were skipped"):
        fit(on_host, [GradientClip(4.5)], n=64)
    assert torch.equal(weights(on_device), weights(on_host))
    assert clip.run.clock.state_dict() == {"version": 1, "attempted": [8], "applied": [8 - len(bad)]}


def test_fused_sgd_with_momentum_is_broken_in_torch_when_its_first_step_is_skipped() -> None:
    """torch 2.13: the buffer stays uninitialised memory. If this fails, torch was mended: drop make_skipping_safe."""
    wrong = 0
    for _ in range(20):
        junk = [torch.full((64, 64), 1e3) for _ in range(8)]
        del junk
        p = nn.Parameter(torch.zeros(64, 64))
        optimizer = torch.optim.SGD([p], lr=1.0, momentum=0.9, fused=True)
        for found in (1.0, 0.0):
            p.grad = torch.ones(64, 64)
            optimizer.found_inf = torch.tensor(found)
            optimizer.step()
        wrong += not torch.equal(p.detach(), -torch.ones(64, 64))
    assert wrong > 0


def test_dampening_with_fused_sgd_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"dampening=0\.5.*Use fused=False"):
        fit(Classifier(lambda p: sgd(p, momentum=0.9, dampening=0.5, fused=True)), [GradientClip(1.0)])


@pytest.mark.parametrize("make", [sgd, fused_sgd])
def test_zero_trains_on_with_the_finite_elements(make: Any) -> None:
    class Half(Classifier):
        def on_after_backward(self) -> None:
            self.net[4].bias.grad[2] = float("nan")

    module = Half(make)
    start = weights(module)
    fit(module, [GradientClip(100.0, nonfinite="zero")], n=8)
    net, history = plain_loop(n=8)
    history[0]["4.bias"][2] = 0.0
    moved = (start - weights(module)) / 0.05
    expected = torch.cat([g.reshape(-1) for g in history[0].values()])
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_warn_lets_it_through_and_tells_it() -> None:
    module = Classifier(spoil=nan_at(2))
    with pytest.warns(TrickWarning, match=r"1 update, first at attempt 3: .*They went through"):
        fit(module, [GradientClip(1.0, nonfinite="warn")], n=24)
    assert weights(module).isnan().any()


@pytest.mark.parametrize("make", [sgd, unfused_adamw, fused_sgd, fused_adamw])
def test_raise_names_step_layers_and_loss_and_leaves_the_weights_alone(make: Any) -> None:
    module = Classifier(make, spoil=nan_at(2))
    with pytest.raises(NonFiniteError, match=r"step 2: .*attempt 3: net\.0\.weight.*The loss was not finite either"):
        fit(module, [GradientClip(1.0, nonfinite="raise")], n=32)
    other = Classifier(make)
    fit(other, [GradientClip(1.0)], n=16)
    assert torch.equal(weights(module), weights(other))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide from the package that it could read the numbers of a CPU without waiting."""
    monkeypatch.setattr("lightning_tricks.numerics.host.value_on_host", lambda value: None)


@pytest.fixture
def norms_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let norms be read as on an accelerator, where nothing can be looked at and read again."""
    monkeypatch.setattr("lightning_tricks.numerics.norms._readable", lambda tensor: False)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_raise_with_a_fused_optimizer_comes_at_the_next_logged_step_and_skips_until_then() -> None:
    module = Classifier(fused_adamw, spoil=nan_at(2))
    with pytest.raises(NonFiniteError, match=r"step 4: NaN or inf in the gradients of 1 update, first at attempt 3"):
        fit(module, [GradientClip(1.0, nonfinite="raise")], log_every_n_steps=5)
    assert weights(module).isfinite().all()


@pytest.mark.usefixtures("as_on_a_gpu")
def test_raise_between_the_last_logged_step_and_the_end_is_not_lost() -> None:
    with pytest.raises(NonFiniteError, match="attempt 12"):
        fit(Classifier(fused_adamw, spoil=nan_at(11)), [GradientClip(1.0, nonfinite="raise")], log_every_n_steps=5)


@pytest.mark.parametrize("make", [sgd, fused_sgd, lambda p: sgd(p, momentum=0.9, fused=True)])
@pytest.mark.parametrize("nonfinite", ["skip", "raise", "warn"])
def test_overflows_of_the_loss_scale_are_the_scalers_to_skip(make: Any, nonfinite: str) -> None:
    net, history = plain_loop(
        lambda p: nn.utils.clip_grad_norm_(p, 1.0),
        precision="16-mixed", init_scale=2.0**24, n=320, make_optimizer=lambda p: make_plain(make, p),
    )  # fmt: skip
    overflows = sum(not math.isfinite(global_norm(g)) for g in history)
    assert 2 < overflows < 30
    module, clip = Classifier(make), GradientClip(1.0, nonfinite=nonfinite)
    t = fit(module, [clip], precision="16-mixed", init_scale=2.0**24, n=320)
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-4, atol=2e-5)
    assert clip.run.clock.state_dict() == {"version": 1, "attempted": [40], "applied": [40 - overflows]}
    assert t.precision_plugin.scaler.get_scale() == 2.0 ** (24 - overflows)


def make_plain(make: Any, parameters: Any) -> Any:
    """The unfused twin: torch's fused SGD with momentum is broken when its first step is skipped."""
    optimizer = make(list(parameters))
    for group in optimizer.param_groups:
        group["fused"] = False
    optimizer._step_supports_amp_scaling = False
    return optimizer


@pytest.mark.parametrize("rule", [AutoClip(50.0), ZClip(warmup=4), AdaGC(warmup=4)])
def test_adaptive_rules_still_clip_spikes_after_non_finite_norms(rule: Any) -> None:
    def spoil(i: int, loss: torch.Tensor) -> torch.Tensor:
        factor = {0: float("inf"), 2: float("nan"), 6: float("nan"), 11: 1e6}.get(i, 1.0)
        return loss * factor

    logger = Memory()
    with pytest.warns(TrickWarning, match="skipped"):
        fit(Classifier(lambda p: sgd(p, lr=1e-6), spoil=spoil), [GradientClip(rule)], logger=logger)
    assert logger.series("grad/clip_coefficient")[11] < 1e-3


# -- rules against oracles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "fused"), list(itertools.product(PRECISIONS, (False, True))))
def test_agc_gives_the_weights_of_the_papers_formula(precision: str, fused: bool) -> None:
    def clip(parameters: list[nn.Parameter]) -> None:
        for i, p in enumerate(parameters):
            if i >= len(parameters) - 2:
                continue
            g, w = p.grad, p.detach()
            dims = tuple(range(1, p.ndim)) or None
            w_norm = w.norm(dim=dims, keepdim=p.ndim > 1).clamp(min=1e-3) * 0.01
            g_norm = g.norm(dim=dims, keepdim=p.ndim > 1)
            g.copy_(torch.where(g_norm > w_norm, g * (w_norm / g_norm.clamp(min=1e-6)), g))

    net, _ = plain_loop(clip, precision=precision)
    module = Classifier(fused_sgd if fused else sgd)
    fit(module, [GradientClip(AGC(0.01, exclude=(r"^net\.4\.",)))], precision=precision)
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=2e-6)


def test_agc_lets_weights_that_start_at_zero_train() -> None:
    net = network()
    with torch.no_grad():
        net[4].weight.zero_()
    module = Classifier(net=net)
    fit(module, [GradientClip(AGC())])
    assert module.net[4].weight.abs().max() > 0


# -- does it do anything? -------------------------------------------------------------------------------------------


def test_fraction_coefficient_and_suggestion_are_those_of_the_run() -> None:
    logger, clip = Memory(), GradientClip(4.5)
    _, history = plain_loop(lambda p: nn.utils.clip_grad_norm_(p, 4.5))
    fit(Classifier(), [clip], logger=logger)
    norms = torch.tensor([global_norm(g) for g in history])
    hit = norms > 4.5
    assert clip.clipped_fraction == pytest.approx(float(hit.float().mean()))
    assert clip.mean_coefficient == pytest.approx(float((4.5 / norms[hit]).mean()), rel=1e-4)
    assert clip.suggested_threshold == pytest.approx(float(norms.quantile(0.9)), rel=1e-4)
    expected = [min(1.0, 4.5 / n) for n in norms.tolist()]
    assert list(logger.series("grad/clip_coefficient").values()) == pytest.approx(expected, rel=1e-4)
    running = (hit.float().cumsum(0) / torch.arange(1, 13)).tolist()
    assert list(logger.series("grad/clipped_fraction").values()) == pytest.approx(running)


# -- cost -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_on_a_gpu", "norms_as_on_a_gpu")
@pytest.mark.parametrize(
    ("make", "precision", "nonfinite", "per_update"),
    [
        (fused_adamw, "32-true", "skip", 0),
        (fused_adamw, "32-true", "raise", 0),
        (fused_adamw, "bf16-mixed", "skip", 0),
        (fused_sgd, "16-mixed", "skip", 0),
        (unfused_adamw, "16-mixed", "skip", 0),
        (unfused_adamw, "32-true", "warn", 0),
        (unfused_adamw, "32-true", "zero", 0),
        (unfused_adamw, "32-true", "skip", 1),
        (unfused_adamw, "32-true", "raise", 1),
    ],
)
def test_host_reads_per_update_are_what_the_docstring_says(
    make: Any, precision: str, nonfinite: str, per_update: int
) -> None:
    def added(steps: int) -> int:
        tricks = [GradientMonitor(per_layer=True, update_ratio=True), GradientClip(1.0, nonfinite=nonfinite)]
        return host_reads(tricks, make, precision, steps) - host_reads([], make, precision, steps)

    # the difference between a long and a short run leaves out what is read once at the end
    assert added(12) - added(6) == 6 * per_update


@pytest.mark.parametrize("nonfinite", ["skip", "raise", "warn", "zero"])
def test_on_a_cpu_nothing_is_read_by_an_operation(nonfinite: str) -> None:
    def added(steps: int) -> int:
        tricks = [GradientMonitor(per_layer=True), GradientClip(1.0, nonfinite=nonfinite)]
        return host_reads(tricks, unfused_adamw, steps=steps) - host_reads([], unfused_adamw, steps=steps)

    assert added(12) == added(6)


@pytest.mark.usefixtures("as_on_a_gpu", "norms_as_on_a_gpu")
@pytest.mark.parametrize("rule", [AutoClip(), ZClip(), AdaGC(), AGC(), ClipValue(0.1)])
def test_no_rule_reads_on_the_host(rule: Any) -> None:
    def added(steps: int) -> int:
        return host_reads([GradientClip(rule)], fused_adamw, steps=steps) - host_reads([], fused_adamw, steps=steps)

    assert added(12) == added(6)


@pytest.mark.parametrize("order", [0, 1])
def test_gradients_are_read_once_whatever_the_number_and_order_of_callbacks(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = torch._foreach_norm
    monkeypatch.setattr(torch, "_foreach_norm", lambda *a, **k: calls.append(1) or real(*a, **k))
    tricks = [GradientMonitor(per_layer=True, groups={"head": r"4\."}), GradientClip(1.0)]
    fit(Classifier(), tricks[::-1] if order else tricks)
    assert len(calls) == 12


def test_a_fused_clip_writes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = torch._foreach_mul_
    monkeypatch.setattr(torch, "_foreach_mul_", lambda *a, **k: calls.append(1) or real(*a, **k))
    fit(Classifier(fused_adamw), [GradientClip(0.1)])
    assert not calls


# -- observers change nothing, state resumes --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("make", [unfused_adamw, fused_adamw])
def test_the_monitor_leaves_the_weights_bit_identical(precision: str, make: Any) -> None:
    alone, watched = Classifier(make), Classifier(make)
    fit(alone, precision=precision, accumulate_grad_batches=2)
    monitor = GradientMonitor(per_layer=True, update_ratio=True, noise_scale=True, groups={"head": r"4\."})
    fit(watched, [monitor], precision=precision, accumulate_grad_batches=2)
    assert torch.equal(weights(alone), weights(watched))


@pytest.mark.parametrize("rule", [1.0, ClipValue(0.1), AGC(), AutoClip(), ZClip(warmup=5), AdaGC(warmup=5)], ids=repr)
@pytest.mark.parametrize("make", [unfused_adamw, fused_adamw])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_has_the_weights_of_the_uninterrupted_one(rule: Any, make: Any, stop: int, tmp_path: Any) -> None:
    whole, whole_clip = Classifier(make), GradientClip(rule)
    fit(whole, [whole_clip, GradientMonitor()], n=32, max_epochs=4)
    first = trainer([GradientClip(rule), GradientMonitor()], max_epochs=stop)
    first.fit(Classifier(make), loader(32))
    path = tmp_path / "stop.ckpt"
    first.save_checkpoint(path)
    torch.load(path, weights_only=True)
    resumed, clip = Classifier(make), GradientClip(rule)
    trainer([clip, GradientMonitor()], max_epochs=4).fit(resumed, loader(32), ckpt_path=path)
    assert torch.equal(weights(whole), weights(resumed))
    assert clip.clipped_fraction == whole_clip.clipped_fraction
    assert clip.run.clock.state_dict() == whole_clip.run.clock.state_dict()


def test_a_resume_with_another_rule_begins_that_rule_and_says_so(tmp_path: Any) -> None:
    first = trainer([GradientClip(ZClip())])
    first.fit(Classifier(), loader(32))
    path = tmp_path / "stop.ckpt"
    first.save_checkpoint(path)
    clip = GradientClip(AutoClip())
    with pytest.warns(TrickWarning, match=r"other arguments \(rule: .*ZClip.* -> .*AutoClip"):
        trainer([clip], max_epochs=2).fit(Classifier(), loader(32), ckpt_path=path)
    assert 0 <= clip.clipped_fraction <= 1


# -- refusals -------------------------------------------------------------------------------------------------------


def test_two_ways_of_clipping_are_refused() -> None:
    with pytest.raises(ConflictError, match=r"gradient_clip_val=0\.5\): .* clips too\. Remove one.*conflict='replace'"):
        fit(Classifier(), [GradientClip(1.0)], gradient_clip_val=0.5)
    with pytest.raises(ValueError, match=r"GradientClip\(conflict='both'\): conflict must be one of"):
        GradientClip(1.0, conflict="both")  # type: ignore[arg-type]


class Estimator:
    """A library that makes its Trainer itself and sets a threshold, as gluonts and rl4co do."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def train(self, make_optimizer: Any = sgd, **more: Any) -> tuple[L.Trainer, Classifier]:
        module = Classifier(make_optimizer)
        return fit(module, gradient_clip_val=0.1, gradient_clip_algorithm="value", **self.arguments, **more), module


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_threshold_that_a_library_set_is_replaced_for_the_fit(precision: str, fused: bool, caplog: Any) -> None:
    seen = []

    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, *args: Any) -> None:
            seen.append((trainer.gradient_clip_val, trainer.gradient_clip_algorithm))

    net, _ = plain_loop(lambda p: nn.utils.clip_grad_norm_(p, 4.5), precision=precision)
    tricks = [GradientClip(4.5, conflict="replace"), Look()]
    with caplog.at_level("INFO"):
        t, module = Estimator(callbacks=tricks).train(fused_sgd if fused else sgd, precision=precision)
    torch.testing.assert_close(weights(module), weights(net), rtol=1e-5, atol=2e-6)
    assert set(seen) == {(None, None)}
    assert (t.gradient_clip_val, t.gradient_clip_algorithm) == (0.1, "value")
    assert "clips in place of Trainer(gradient_clip_val=0.1) in this fit" in caplog.text
    t.fit_loop.epoch_progress.reset()
    t.fit(module, loader(16))  # the same Trainer again
    assert (t.gradient_clip_val, t.gradient_clip_algorithm) == (0.1, "value")


def test_a_fit_that_fails_gives_the_library_its_threshold_back() -> None:
    class Bad(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            raise RuntimeError("no more")

    for module, tricks in (
        (Bad(), [GradientClip(1.0, conflict="replace")]),
        (Classifier(), [GradientClip(1.0, conflict="replace"), GradientMonitor(groups={"a": "nothing"})]),
    ):
        t = trainer(tricks, gradient_clip_val=0.1)
        with pytest.raises(RuntimeError, match=r"no more|matches no parameter"):
            t.fit(module, loader(16))
        assert t.gradient_clip_val == 0.1


# -- steps that Lightning does not announce ---------------------------------------------------------------------------


def stepping(bare: Any) -> Any:
    class Steps(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers(use_pl_optimizer=not bare(batch_idx))
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    return Steps(manual=True)


@pytest.mark.parametrize("tricks", [[GradientClip(4.5)], [GradientMonitor()], [GradientMonitor(), GradientClip(4.5)]])
def test_steps_past_lightning_are_said_once_a_run(tricks: Any) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        t = fit(stepping(lambda i: i % 2), tricks)
    told = [str(w.message) for w in said if issubclass(w.category, TrickWarning)]
    assert len(told) == 1, told
    assert "self.optimizers(use_pl_optimizer=False): the gradients of such steps are neither measured nor" in told[0]
    assert t.callbacks[0].run.clock.state_dict()["applied"] == [12]
    fit(stepping(lambda i: False), [GradientClip(4.5), GradientMonitor()])  # (a warning would be an error)


# -- parameters and optimizers that are replaced ----------------------------------------------------------------------


class Swapped(Classifier):
    """After the first epoch another layer of the same shape takes the place of the last one, in a new optimizer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.norms = how, []  # type: ignore[var-annotated]
        torch.manual_seed(7)
        self.spare = [nn.Linear(24, 10)]

    def on_train_epoch_start(self) -> None:
        if self.current_epoch != 1:
            return
        self.net[4] = self.spare[0]
        if self.how == "new optimizer":
            self.trainer.strategy.setup_optimizers(self.trainer)
        else:
            group = self.trainer.optimizers[0].param_groups[0]
            group["params"] = list(self.net.parameters())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.before = [p.detach().clone() for p in self.net.parameters()]

    def on_train_batch_end(self, *args: Any) -> None:
        moved = [a - b.detach() for a, b in zip(self.before, self.net.parameters(), strict=True)]
        self.norms.append([float(m.norm()) / 0.05 for m in moved])


@pytest.mark.parametrize("how", ["new optimizer", "same optimizer"])
@pytest.mark.parametrize("rule", [ClipNorm(0.05), AdaGC(warmup=1, absolute=0.05, relative=1e-6), AGC(1e-3)], ids=repr)
def test_parameters_replaced_at_equal_count_are_clipped(how: str, rule: Any) -> None:
    module = Swapped(how)
    clip = GradientClip(rule, per="layer") if isinstance(rule, ClipNorm) else GradientClip(rule)
    fit(module, [clip], n=24, max_epochs=2)
    state = clip._trick_state()["0"]
    if isinstance(rule, ClipNorm):
        assert all(norm <= 0.05 * (1 + 1e-4) for row in module.norms for norm in row)
        assert max(module.norms[-1]) == pytest.approx(0.05, rel=1e-3)
    elif isinstance(rule, AGC):  # every row moves by at most a share of the norm of its weights
        assert module.norms[-1][-2] <= 1.1e-3 * float(module.net[4].weight.detach().norm())
    else:  # (what was learnt of the old layer does not hold for the new one, whose first update counts as its first)
        assert max(row[-2] for row in module.norms) > 1e-3
    assert len(state["parts"]) == 8
    assert (state["parts"][-1] == "net.4.bias") == (how == "new optimizer")


def test_two_clips_on_one_optimizer_are_refused() -> None:
    tricks = [GradientClip(1.0), GradientClip(2.0, groups={"all": "."})]
    with pytest.raises(ConflictError, match="optimizer 0 has another GradientClip"):
        fit(Classifier(), tricks)
    with pytest.raises(ConflictError, match=r"GradientClip\(.*is in callbacks= too"):
        fit(Classifier(), [GradientClip(1.0), GradientClip(2.0)])


def test_an_overridden_hook_is_warned_about() -> None:
    class Own(Classifier):
        def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
            pass

    with pytest.warns(TrickWarning, match=r"Own\.configure_gradient_clipping is overridden"):
        fit(Own(), [GradientClip(1.0)], n=8)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_thresholds_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"GradientClip\(rule=.*max_norm must be > 0 and finite.*Use e\.g\. 1\.0"):
        GradientClip(value)


@pytest.mark.parametrize("value", ["1.0", True, None, ClipNorm])
def test_thresholds_of_a_wrong_type_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"GradientClip\(rule="):
        GradientClip(value)


def test_groups_that_match_nothing_name_the_nearest() -> None:
    with pytest.raises(TrickError, match=r"matches no parameter\. The nearest name is 'net\.4\.weight'"):
        fit(Classifier(), [GradientMonitor(groups={"head": r"^net\.4\.wieght"})])
    with pytest.raises(TrickError, match="matches no parameter"):
        fit(Classifier(), [GradientClip(1.0, per="group", groups={"head": "nothing_like_it"})])


def test_groups_that_overlap_are_refused() -> None:
    with pytest.raises(TrickError, match=r"groups overlap: 'net\.4\.weight' is in 'a' and in 'b'"):
        fit(Classifier(), [GradientMonitor(groups={"a": r"4\.", "b": r"4\.weight"})])


def test_groups_that_split_an_optimizer_need_per_group() -> None:
    with pytest.raises(TrickError, match=r"'net\.0\.weight' of optimizer 0 is in no group.*Use per='group'"):
        fit(Classifier(), [GradientClip(1.0, groups={"head": r"^net\.4\."})])


@pytest.mark.parametrize(("rule", "per"), [(AGC(), "layer"), (AdaGC(), "group"), (ClipValue(1.0), "layer")])
def test_a_granularity_that_the_rule_cannot_have_is_refused(rule: Any, per: Any) -> None:
    with pytest.raises(ValueError, match="always works per"):
        GradientClip(rule, per=per)


def test_deepspeed_is_refused_by_name() -> None:
    from lightning.pytorch.strategies import SingleDeviceStrategy

    class DeepSpeedStrategy(SingleDeviceStrategy):
        pass

    for trick in (GradientClip(1.0), GradientMonitor()):
        with pytest.raises(UnsupportedError, match="DeepSpeedStrategy is not supported: .*DeepSpeed config"):
            fit(Classifier(), [trick], strategy=DeepSpeedStrategy("cpu"))


def test_sparse_gradients_are_measured_and_clipped() -> None:
    class Sparse(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(17, 4, sparse=True)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.table((batch[0] * 16).long()).square().sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module, logger = Sparse(), Memory()
    start = module.table.weight.detach().clone()
    counts = torch.bincount((digits(8).tensors[0] * 16).long().reshape(-1), minlength=17).float()
    gradient = 2 * counts[:, None] * start
    fit(module, [GradientMonitor(per_layer=True), GradientClip(1.0)], n=8, logger=logger)
    assert logger.series("grad/norm")[0] == pytest.approx(float(gradient.norm()), rel=1e-5)
    expected = start - 0.01 * gradient / gradient.norm()
    torch.testing.assert_close(module.table.weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_lbfgs_trains_and_counts_one_update_per_step() -> None:
    module = Classifier(lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3))
    clip = GradientClip(1.0)
    fit(module, [clip], n=24)
    assert clip.run.clock.state_dict() == {"version": 1, "attempted": [3], "applied": [3]}


def test_layers_that_are_unfrozen_in_mid_run_are_clipped_too() -> None:
    class Unfreeze(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.net[4].requires_grad_(True)
                trainer.optimizers[0].add_param_group({"params": list(pl_module.net[4].parameters())})

    def make(module: Any) -> Any:
        return lambda parameters: sgd([p for n, p in module.named_parameters() if "net.4" not in n])

    module, logger = Classifier(), Memory()
    module.net[4].requires_grad_(False)
    module.make_optimizer = make(module)
    groups = {"body": r"^net\.[0-3]\.", "head": r"^net\.4\."}
    tricks = [Unfreeze(), GradientClip(0.01, per="layer"), GradientMonitor(per_layer=True, groups=groups)]
    fit(module, tricks, n=24, max_epochs=2, logger=logger, log_every_n_steps=2)
    assert sorted(logger.series("grad/norm/net.4.weight")) == [3, 5]
    assert sorted(logger.series("grad/norm/net.0.weight")) == [1, 3, 5]
    assert sorted(logger.series("grad/group/head")) == [3, 5]


def test_a_copy_of_a_used_callback_carries_no_model() -> None:
    tricks = [GradientMonitor(), GradientClip(ZClip())]
    fit(Classifier(), tricks, n=16)
    for trick in tricks:
        twin = copy.deepcopy(trick)
        assert twin.run_or_none is None
        # (of a class that was given in place of an instance, Lightning has set it on the class)
        assert "log" not in vars(twin) or twin.log.__self__ is twin
        fit(Classifier(), [twin], n=16)


def test_a_run_that_logs_nothing_still_tells_what_was_not_finite() -> None:
    logger = Memory()
    with pytest.warns(TrickWarning, match="first at attempt 3"):
        fit(Classifier(spoil=nan_at(2)), [GradientClip(1.0)], n=32, logger=logger, log_every_n_steps=0)
    assert logger.rows == []


# -- states of 0.1.0, in which each callback listed its arguments itself ------------------------------------------------


def old_state(name: str, configuration: dict[str, Any]) -> dict[str, Any]:
    """A state as a run has saved it, with the configuration that 0.1.0 wrote."""
    trick = GradientClip(0.01) if name == "GradientClip" else GradientMonitor(noise_scale=True)
    fit(Classifier(), [trick], n=64, accumulate_grad_batches=2)
    return {**trick.state_dict(), "configuration": configuration}


def test_an_old_state_of_the_clip_loads_without_a_warning() -> None:
    old = old_state("GradientClip", {"rule": repr(ClipNorm(0.01)), "per": "model", "nonfinite": "skip"})
    clip = GradientClip(0.01, conflict="replace")
    clip.load_state_dict(old)  # (warnings are errors here)
    fit(Classifier(), [clip], n=32, accumulate_grad_batches=2)
    updates = clip.state_dict()["state"]["0"]["statistics"]["updates"]
    assert float(updates) == float(old["state"]["0"]["statistics"]["updates"]) + 2
    assert clip.state_dict()["configuration"]["conflict"] == "replace"


def test_an_old_state_of_the_monitor_loads_without_a_warning() -> None:
    arguments = {"every_n_steps": None, "per_layer": True, "norm_type": 2.0, "update_ratio": False}
    old = old_state("GradientMonitor", {**arguments, "noise_scale": True, "histograms": False})
    monitor = GradientMonitor(noise_scale=True)
    monitor.load_state_dict(old)
    fit(Classifier(), [monitor], n=8, accumulate_grad_batches=2)
    saved, now = old["state"]["noise"], monitor.state_dict()["state"]["noise"]
    assert saved.keys() == now.keys()
    assert all(torch.equal(torch.as_tensor(saved[key]), torch.as_tensor(now[key])) for key in saved)
