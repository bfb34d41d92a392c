"""What several tests of faults train or compare: modules, data and functions."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import lightning_tricks
from lightning_tricks import Rollback
from lightning_tricks.lifecycle.trick import Trick
from tests.matrix import EXAMPLES, UNDER
from tests.problems import Classifier, fit

_OFTEN = {"every_n_steps": 5}  # a check that is open when the state is taken


_SETTINGS = {
    **{name: _OFTEN for name, arguments in EXAMPLES.items() if "every_n_steps" in arguments},
    "TrainingDoctor": {"every_n_steps": 2, "action": Rollback()},
    "LRSchedule": {"decay": lightning_tricks.Plateau("loss"), "warmup": 2, "total": 40},
    "GradientMonitor": {"noise_scale": True},
    "LRFinder": {"num_steps": 10},
    "SanityCheck": {"overfit_batch": False, "input_matters": False, "sample_independence": False},
}  # fmt: skip


class Logging(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


def example(name: str) -> Trick:
    made: Trick = getattr(lightning_tricks, name)(**{**EXAMPLES[name], **_SETTINGS.get(name, {})})
    return made


def arguments(name: str) -> dict[str, Any]:
    window = {"accumulate_grad_batches": 2} if name == "GradientMonitor" else {}
    return {"precision": UNDER.get(name, "32-true"), **window}


@functools.cache
def taken(name: str) -> dict[str, Any]:
    trick = example(name)
    fit(Logging(), [trick], n=64, **arguments(name))
    return trick.state_dict()


def state_of(name: str) -> dict[str, Any]:
    return copy.deepcopy(taken(name))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in a state, tensors being leaves; of lists the first entry only."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def put(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    owner = functools.reduce(lambda held, key: held[key], path[:-1], state)
    owner[path[-1]] = value
    return state
