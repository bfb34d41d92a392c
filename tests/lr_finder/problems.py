"""What several tests of lr_finder train or compare: modules, data and functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler as s
from torch.optim.swa_utils import SWALR

STEPS = 24  # of the whole run


Make = Callable[[Any, float], Any]


# scheduler of torch -> (optimizer, rate that the user has in mind) -> it; a cycle takes the rate as its highest
SCHEDULERS: dict[str, list[Make]] = {
    "LambdaLR": [lambda o, lr: s.LambdaLR(o, lambda k: 0.9**k)],
    "MultiplicativeLR": [lambda o, lr: s.MultiplicativeLR(o, lambda k: 0.95)],
    "StepLR": [lambda o, lr: s.StepLR(o, 5)],
    "MultiStepLR": [lambda o, lr: s.MultiStepLR(o, [4, 9])],
    "ConstantLR": [lambda o, lr: s.ConstantLR(o, 0.3, total_iters=6)],
    "LinearLR": [lambda o, lr: s.LinearLR(o, 0.1, total_iters=8)],
    "ExponentialLR": [lambda o, lr: s.ExponentialLR(o, 0.9)],
    "PolynomialLR": [lambda o, lr: s.PolynomialLR(o, STEPS, power=2.0)],
    "CosineAnnealingLR": [
        lambda o, lr: s.CosineAnnealingLR(o, STEPS),
        lambda o, lr: s.CosineAnnealingLR(o, 8, eta_min=1e-4),
    ],
    "CosineAnnealingWarmRestarts": [lambda o, lr: s.CosineAnnealingWarmRestarts(o, 5, 2)],
    "CyclicLR": [
        lambda o, lr, mode=mode: s.CyclicLR(o, lr / 20, lr, step_size_up=4, mode=mode, gamma=0.9)  # type: ignore[misc]
        for mode in ("triangular", "triangular2", "exp_range")
    ],
    "OneCycleLR": [
        lambda o, lr: s.OneCycleLR(o, lr, total_steps=STEPS + 1),
        lambda o, lr: s.OneCycleLR(o, lr, total_steps=STEPS + 1, three_phase=True, anneal_strategy="linear"),
    ],
    "ReduceLROnPlateau": [lambda o, lr: s.ReduceLROnPlateau(o, patience=0, threshold=0.9)],
    "SequentialLR": [
        lambda o, lr: s.SequentialLR(
            o, [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, T_max=20)], milestones=[4]
        ),
        lambda o, lr: s.SequentialLR(
            o, [s.ConstantLR(o, 0.5, 3), s.StepLR(o, 4), s.ExponentialLR(o, 0.8)], milestones=[3, 12]
        ),
    ],
    "ChainedScheduler": [
        lambda o, lr: s.ChainedScheduler([s.ConstantLR(o, 0.1, total_iters=5), s.ExponentialLR(o, 0.9)], o)
    ],
    "SWALR": [lambda o, lr: SWALR(o, swa_lr=1e-3, anneal_epochs=6)],
}
