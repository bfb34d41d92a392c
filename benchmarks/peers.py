"""The rules of other tools, written from their documentation, on what a run gives: emulations, not their code.

Lightning's SpikeDetection (2.6.6), llm-foundry's KillLossSpike, SageMaker Debugger's built-in rules and AUTOTRAINER, all
with their documented defaults. One "epoch" or "save interval" is 25 steps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

EVERY = 25


@dataclass
class Look:
    """What is seen at one interval."""

    step: int
    first_gradient: float = math.nan
    last_gradient: float = math.nan
    mean_gradients: list[float] = field(default_factory=list)
    zero_gradients: float = 0.0
    nonfinite: bool = False
    dead: list[float] = field(default_factory=list)
    saturated: list[float] = field(default_factory=list)
    update_ratios: list[float] = field(default_factory=list)
    all_zero: bool = False
    accuracy: float = math.nan
    worst_class: float = math.nan
    train_loss: float = math.nan
    validation_loss: float = math.nan


class Recorder(L.Callback):
    """Writes down losses, and now and then gradients, activations and updates."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.looks: list[Look] = []
        self._handles: list[Any] = []
        self._look: Look | None = None
        self._before: list[Tensor] = []
        self._answers: list[tuple[Tensor, Tensor]] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        for module in pl_module.modules():
            if isinstance(module, (nn.ReLU, nn.Sigmoid, nn.Tanh)):
                self._handles.append(module.register_forward_hook(self._activation))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _activation(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self._look is None or not module.training:
            return
        if output.ndim < 2:  # one number for each sample
            output = output.reshape(-1, 1)
        rows = output.detach().flatten(0, -2) if output.ndim == 3 else output.detach().movedim(1, -1).flatten(0, -2)
        if isinstance(module, nn.ReLU):
            self._look.dead.append(float(((rows > 0).float().mean(0) < 0.01).float().mean()))
            return
        low, high = (-23.0, 17.0) if isinstance(module, nn.Sigmoid) else (-9.5, 9.5)
        outside = (args[0].detach() < low) | (args[0].detach() > high)
        self._look.saturated.append(float(outside.float().mean()))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = len(self.losses)
        self._look = Look(step) if step % EVERY == EVERY - 1 else None

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        look = self._look
        if look is None or not math.isnan(look.first_gradient):
            return
        matrices = [p for p in pl_module.parameters() if p.grad is not None and p.ndim > 1]
        if not matrices:
            return
        norms = [float(p.grad.norm()) for p in matrices]
        look.first_gradient, look.last_gradient = norms[0], norms[-1]
        look.mean_gradients = [float(p.grad.abs().mean()) for p in matrices]
        look.zero_gradients = max(float((p.grad == 0).float().mean()) for p in matrices)
        look.nonfinite = not all(map(math.isfinite, norms))
        look.all_zero = any(n == 0 for n in norms)
        self._before = [p.detach().clone() for p in matrices]
        self._matrices = matrices

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        found = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self.losses.append(float(found) if isinstance(found, Tensor) else math.nan)
        if isinstance(outputs, dict) and isinstance(outputs.get("logits"), Tensor):
            logits = outputs["logits"]
            target = outputs.get("target", batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None)
            if target is not None and target.numel() * logits.shape[-1] == logits.numel():  # one class each
                self._answers.append((logits.reshape(-1, logits.shape[-1]).argmax(-1), target.reshape(-1)))
        look, self._look = self._look, None
        if look is None:
            return
        for p, old in zip(getattr(self, "_matrices", []), self._before, strict=False):
            look.update_ratios.append(float((p - old).abs().mean() / old.abs().mean().clamp(min=1e-30)))
        self._before = []
        if self._answers:
            guess, target = (torch.cat(x) for x in zip(*self._answers, strict=True))
            look.accuracy = float((guess == target).float().mean())
            wrong = [float((guess[target == k] != k).float().mean()) for k in target.unique().tolist()]
            look.worst_class = max(wrong)
            self._answers = []
        recent = [x for x in self.losses[-EVERY:] if math.isfinite(x)]
        look.train_loss = statistics.fmean(recent) if recent else math.nan
        look.nonfinite |= not math.isfinite(self.losses[-1]) and any(map(math.isfinite, self.losses))
        metric = trainer.callback_metrics.get("val_loss")
        look.validation_loss = math.nan if metric is None else float(metric)
        self.looks.append(look)


def spike_detection(run: Recorder) -> int | None:
    """Return the step of the first alarm: loss above the last one, and at least 3 times the running mean of 10."""
    window: list[float] = []
    for step, loss in enumerate(run.losses):
        if math.isnan(loss) and not any(map(math.isfinite, run.losses)):
            return None  # no loss is known: manual optimization
        if not math.isfinite(loss):
            return step
        mean = statistics.fmean(window) if window else loss
        if step > 1 and window and loss > window[-1] and abs(loss - mean) >= 2.0 * abs(mean):
            return step
        window = [*window, loss][-10:]
    return None


def kill_loss_spike(run: Recorder) -> int | None:
    """Twice the mean of the window (100, or a twentieth of the run) for more than 4 steps; or half the window above a cap."""
    size = max(1, min(100, len(run.losses) // 20))
    losses = run.losses
    if not any(map(math.isfinite, losses)):
        return None
    cap = min(max((x for x in losses[:size] if math.isfinite(x)), default=10.0), 10.0)
    streak = 0
    for step in range(size, len(losses)):
        before = [x for x in losses[step - size : step] if math.isfinite(x)]
        mean = statistics.fmean(before) if before else math.nan
        streak = streak + 1 if losses[step] >= 2 * mean else 0
        if streak > 4 or (step >= 2 * size and sum(x > cap for x in losses[step - size : step]) > size / 2):
            return step
    return None


def sagemaker(run: Recorder) -> int | None:
    """Any built-in rule but LossNotDecreasing, which fires on every run."""
    overfitted = 0
    for look in run.looks:
        over = (look.validation_loss - look.train_loss) / max(abs(look.train_loss), 1e-12)
        overfitted = overfitted + 1 if math.isfinite(over) and over > 0.1 else 0
        rules = (
            any(share > 0.5 for share in look.dead),
            any(share > 0.5 for share in look.saturated),
            look.nonfinite,
            any(g < 1e-7 for g in look.mean_gradients),
            any(r > 10 or r < 1e-8 for r in look.update_ratios),
            look.all_zero,
            look.worst_class > 0.7,
            overfitted > 1,
        )
        if any(rules):
            return look.step
    return None


def autotrainer(run: Recorder) -> int | None:
    """A symptom, in a run whose accuracy is below 0.6 after 30 %; NaN at once."""
    begin = 0.3 * len(run.losses)
    accuracies: list[float] = []
    for look in run.looks:
        if look.nonfinite:
            return look.step
        accuracies.append(look.accuracy)
        if look.step < begin or not look.accuracy < 0.6:
            continue
        moves = [b - a for a, b in pairwise(accuracies)]
        ratio = look.first_gradient / max(look.last_gradient, 1e-30)
        swings = sum(abs(m) >= 0.03 and m < 0 for m in moves) / max(1, len(moves))
        symptoms = (
            look.zero_gradients >= 0.7,
            ratio < 1e-3 and look.first_gradient < 1e-4,
            ratio > 70,
            swings >= 0.2,
            max(moves, default=1.0) < 0.01,
        )
        if any(symptoms):
            return look.step
    return None


PEERS: dict[str, Callable[[Recorder], int | None]] = {
    "Lightning SpikeDetection": spike_detection,
    "llm-foundry KillLossSpike": kill_loss_spike,
    "SageMaker Debugger": sagemaker,
    "AUTOTRAINER": autotrainer,
}
PUBLISHED = (
    "Published by their authors, on their own models: AUTOTRAINER (ICSE 2021) 495 models, 100 % detected, no false alarm; "
    "DeepLocalize (ICSE 2021) 34 of 40; DeepFD (ICSE 2022) diagnoses 52 %; an independent comparison (EMSE 2025) of DeepFD, "
    "DeepDiagnosis, Neuralint and UMLAUT: best recall 0.55 at a precision of 0.37."
)
