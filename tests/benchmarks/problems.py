"""What the tests of the scenarios share."""

from __future__ import annotations

from benchmarks import collapse
from benchmarks.models.scenario import Scenario


def passes(scenario: Scenario, seed: int, *, to_the_end: bool = True) -> bool:
    """Train a scenario once, without any detector; return whether its own score reaches its threshold.

    Args:
        scenario: which one.
        seed: of its training.
        to_the_end: whether the training has to make all of its updates.
    """
    with collapse.quiet():
        training = scenario.make(seed)
        collapse.fit(training, [*training.callbacks])
        assert training.score is not None
        assert scenario.passes is not None
        if to_the_end:
            assert training.module.global_step >= training.steps
        return training.score(training.module) >= scenario.passes
