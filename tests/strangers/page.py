"""Writes docs/strangers.md from the table of strangers: ``python -m tests.strangers.page``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.strangers.defects import DEFECTS, TRAINING_DEFECTS
from tests.strangers.packages import STRANGERS
from tests.strangers.stranger import Stranger
from tests.strangers.trainings import TRAININGS
from tests.strangers.trainings.training import Training

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "strangers.md"

_START = """\
# Packages of others

Small trainings of models that other packages publish, as their own documentation trains them. Made from `tests/strangers`;
every cell is a test. `./dev strangers` installs the packages in an environment of their own and runs the tests (Python 3.11
or 3.12, 4 GB, about five minutes). Without it the tests are skipped.

- **observers**: `SanityCheck`, `LRFinder(apply=False)`, `GradientMonitor`, `PrecisionDoctor`, `TrainingDoctor`, `DeadUnits` and
  `ResumeGuard` together. *Identical*: every gradient, all weights and buffers, what the module logs, and the states of the
  random generators are bit for bit those of the training without them.
- **all** and **bf16-mixed**: the list of the README trains to the end, with finite weights.
- **resume**: with `ExactResume`, stopped in the middle of an epoch. *Identical*: gradients, weights and generators are those
  of the training that was not stopped.

"""
_END = """
## What has to be changed, and what is refused

Refused means an error before the first update that names the callback; not run means a warning, and training goes on.

"""
_TRAININGS = """
## Trainings written around packages

Small trainings around modules, losses, samplers and data sets of packages, as their documentation shows them, and with one
mistake. A score on held-out data says which is worth something; the healthy ones end without a failed check and without an
alarm of `SanityCheck`, `TrainingDoctor` and the detectors that fit, and mistakes are noticed (`tests/strangers/trainings`).

"""
_LAST = """
`LIGHTNING_TRICKS` reaches the Trainers that a package makes itself: observers named there change nothing, and a recipe trains
to the end, with each model of those packages.

The wheel of torchvision on PyPI is built for CUDA. Beside a CPU build of torch its compiled part does not load, and then
`import torchvision` fails, and Lightning with it, by way of torchmetrics. The tests declare the two operators that the import
misses (`tests/strangers/torchvision_operators.py`); nothing here calls them.

Left out: kraken 7.1 (needs lightning 2.6.1), lightning-bolts 0.7 (needs lightning below 2), torchgeo 0.10 and
lightning-uq-box 0.4 (need Python 3.12), stable-pretraining 0.1.8 (needs transformers 5).
"""


def page() -> str:
    """Return the text of the page."""
    head = ["| model | version | Trainer | observers | all | bf16-mixed | resume |", "| --- " * 7 + "|"]
    rows = [f"| {' | '.join(_cells(stranger))} |" for stranger in STRANGERS]
    notes = [f"- {stranger.name}: {'; '.join(said)}." for stranger in STRANGERS if (said := list(_notes(stranger)))]
    reasons = {reason: [case for case in DEFECTS if DEFECTS[case] == reason] for reason in DEFECTS.values()}
    faults = [f"- {reason}. {_listed(cases)}." for reason, cases in reasons.items()]
    known = ["", "## Known defects", "", *faults] if faults else []
    known += [_TRAININGS + "\n".join(["| training | mistake |", "| --- | --- |", *map(_training_row, TRAININGS)])]
    return _START + "\n".join([*head, *rows]) + "\n" + _END + "\n".join([*notes, *known]) + "\n" + _LAST


def _training_row(training: Training) -> str:
    missed = TRAINING_DEFECTS.get((training.name, "noticed"))
    told = f"{training.mistake} (not noticed: {missed})" if missed else training.mistake
    return f"| {training.name} | {told} |"


def _listed(cases: list[tuple[str, str]]) -> str:
    """Return cases as text, each stranger once.

    >>> _listed([("a", "x"), ("a", "y"), ("b", "x")])
    'Seen with a (x, y), b (x)'
    """
    tests: dict[str, list[str]] = {}
    for name, test in cases:
        tests.setdefault(name, []).append(test)
    return "Seen with " + ", ".join(f"{name} ({', '.join(found)})" for name, found in tests.items())


def _cells(stranger: Stranger) -> Iterator[str]:
    yield stranger.name
    yield _version(stranger)
    yield "its own" if stranger.hidden else "yours"
    yield _unless_defect(stranger, ("observers", "metrics"), "identical")
    yield _unless_defect(stranger, ("full list",), "works")
    yield _unless_defect(stranger, ("bf16-mixed",), "works")
    resumed = "refused by name" if stranger.not_resumed else "identical"
    yield _unless_defect(stranger, ("resume",), resumed)


def _unless_defect(stranger: Stranger, tests: tuple[str, ...], outcome: str) -> str:
    return "defect" if any((stranger.name, test) in DEFECTS for test in tests) else outcome


def _version(stranger: Stranger) -> str:
    if stranger.package is None:
        return "written again"
    name = re.sub(r"[-_.]+", "[-_.]+", stranger.package)
    found = re.search(rf"^{name}==(\S+)", (ROOT / "requirements/constraints-strangers.txt").read_text(), re.I | re.M)
    assert found is not None, stranger.package
    return found[1]


def _notes(stranger: Stranger) -> Iterator[str]:
    yield from (f"`{name}` is refused ({_plain(said)})" for name, said in stranger.refused.items())
    yield from (f"`{name}` is not run ({_plain(said)})" for name, said in stranger.skipped.items())
    for name, said in stranger.conflicts.items():
        given = {**stranger.arguments.get(name, {})}
        remedy = _called(name, given) if given else _called("Trainer", dict(stranger.trainer))
        yield f"`{name}` is refused ({_plain(said)}): use `{remedy}`"
    if stranger.not_resumed:
        yield f"`ExactResume` refuses a checkpoint of the middle of an epoch ({_plain(stranger.not_resumed)})"


def _called(name: str, arguments: dict[str, object]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _plain(pattern: str) -> str:
    return pattern.replace("\\", "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
