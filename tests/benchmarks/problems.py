"""What the tests of the scenarios share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import collapse
from benchmarks.models.scenario import SANITY, SANITY_ROWS, Scenario
from benchmarks.models.scenarios import SCENARIOS
from lightning_tricks.detection.causes import Cause


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


def assert_named_for_development(scenarios: Sequence[Scenario]) -> None:
    """The names are unique among all scenarios, and by themselves put these into the develop half."""
    names = [s.name for s in SCENARIOS]
    assert len(set(names)) == len(names)
    assert {s.name for s in scenarios} <= set(names)
    assert {s.half for s in scenarios} == {"develop"}
    assert not any(s.fixed_half for s in scenarios)


def assert_commented(file: ModuleType) -> None:
    """A comment before each scenario of a file says where it is from."""
    lines = Path(str(file.__file__)).read_text().splitlines()
    entries = [i for i, line in enumerate(lines) if line.startswith(("    failing(", "    healthy("))]
    assert len(entries) == len(file.SCENARIOS)
    assert all(lines[i - 1].startswith("    # ") for i in entries)


def assert_modules_exist(scenario: Scenario, returned: Collection[str] = ()) -> None:
    """The modules that detectors are pointed to exist.

    Args:
        scenario: which one.
        returned: keys of what training steps return, which may stand for a module.
    """
    training = scenario.make(0)
    modules = dict(training.module.named_modules())
    for arguments in training.detectors.values():
        named = [
            arguments.get(key, ()) for key in ("output", "layer", "assignments", "mean", "log_variance", "generator")
        ]
        for name in (n for names in named for n in ([names] if isinstance(names, str) else names)):
            assert name in modules or name in returned


def assert_mixed_with_scores(file: ModuleType) -> None:
    """A file of scenarios has failing and healthy ones of one family, each with a score."""
    assert 0.4 <= sum(s.failing for s in file.SCENARIOS) / len(file.SCENARIOS) <= 0.6
    assert all(s.passes is not None for s in file.SCENARIOS)
    assert {s.family for s in file.SCENARIOS} == {file.FAMILY}


def assert_causes_known(scenarios: Iterable[Scenario]) -> None:
    """Their causes are causes of verdicts or rows of the check before training."""
    known = {str(c.value) for c in Cause if c.value} | {SANITY + row for row in SANITY_ROWS}
    assert {cause for s in scenarios for cause in s.causes} <= known
