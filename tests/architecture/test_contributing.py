"""The lists of files in CONTRIBUTING.md are right: every existing clip rule, decay, metric, detector and callback is in them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from torchmetrics import Metric

from lightning_tricks.config_check import public_classes
from lightning_tricks.detection.detector import Detector
from lightning_tricks.gradients.rules import ClipRule
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.schedules.curves import Decay
from lightning_tricks.schedules.phases import DECAYS

ROOT = Path(__file__).parents[2]
MOST_FILES, MOST_FOLDERS = 6, 4
KINDS: dict[str, type] = {
    "A clip rule": ClipRule,
    "A decay": Decay,
    "A metric": Metric,
    "A detector": Detector,
    "A callback": Trick,
}
# what mentions every member of a kind without being in its list
GENERATED = {"docs/llms.txt", "docs/support.md", "docs/scaling.md", "docs/reliability.md"}
FOR_READERS = {"README.md", "CHANGELOG.md", "docs/symptoms.md", "docs/detectors/README.md"}
MENTIONS = {
    "lightning_tricks/schedules/callbacks.py",  # the docstring of LRSchedule
    "lightning_tricks/schedules/callbacks/lr_schedule.py",
    "examples/schedules_gallery.py",  # draws them
    "lightning_tricks/__init__.py",  # of decays and metrics: old names, and those that say enough by themselves
    "tests/laws/test_clipping.py",  # has laws that hold for all rules; nothing fails without a new one
    "lightning_tricks/gradients/callbacks.py",  # the docstring of GradientClip
    "lightning_tricks/gradients/callbacks/gradient_clip.py",
    "tests/laws/test_yaml.py",  # draws arguments for LightningCLI; a new rule need not be there
}


def members(kind: str) -> list[type]:
    """Return the public classes of a kind; of decays those that have a name."""
    found = list(public_classes().values())
    named = {type(decay) for decay in DECAYS.values()}
    return [c for c in found if issubclass(c, KINDS[kind]) and (kind != "A decay" or c in named) and c is not ClipRule]


def listed(kind: str) -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition(f"\n### {kind}\n")[2]
    return re.findall(r"^- `([^`]+)`: ", re.split(r"\n##", text)[0], re.M)


def feature(cls: type) -> str:
    return cls.__module__.split(".")[1]


def names(cls: type) -> list[str]:
    """Return how a member may be written: its class, or the name of a decay."""
    return [cls.__name__, *(name for name, decay in DECAYS.items() if type(decay) is cls)]


@cache
def words(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", path.read_text(encoding="utf-8")))


def mentioned(cls: type, path: Path) -> bool:
    return any(name in words(path) for name in names(cls))


def needed(cls: type, pattern: str) -> bool:
    """Whether a file of the list has to be changed for this member."""
    if pattern.endswith("callbacks/__init__.py"):
        package = ROOT / "lightning_tricks" / feature(cls) / "callbacks" / "__init__.py"
        return package.exists() and "import" in package.read_text(encoding="utf-8")
    if pattern == "tests/matrix.py" and not issubclass(cls, Trick):
        return any(p.default is p.empty for p in inspect.signature(cls).parameters.values())
    return True


def files(cls: type, pattern: str) -> Iterator[Path]:
    """Yield the files that an entry stands for."""
    if "<file>" in pattern:
        yield ROOT / Path(*cls.__module__.split(".")).with_suffix(".py")
    else:
        yield from ROOT.glob(pattern.replace("<feature>", feature(cls)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_member_of_a_kind_touches_few_files_in_few_folders(kind: str) -> None:
    found = listed(kind)
    assert 3 <= len(found) == len(set(found)) <= MOST_FILES
    assert len({pattern.rpartition("/")[0] for pattern in found}) <= MOST_FOLDERS


@pytest.mark.parametrize(
    ("kind", "cls"), [(k, c) for k in KINDS for c in members(k)], ids=lambda x: getattr(x, "__name__", x)
)
def test_every_member_is_in_each_file_of_the_list(kind: str, cls: type) -> None:
    for pattern in filter(lambda p: needed(cls, p), listed(kind)):
        assert any(mentioned(cls, path) for path in files(cls, pattern)), f"{cls.__name__} is not in {pattern}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_file_has_every_member(kind: str) -> None:
    """A file that mentions all of a kind is a list that has to be kept by hand: it belongs in CONTRIBUTING.md."""
    everyone = members(kind)
    assert len(everyone) > 5
    known = {str(p.relative_to(ROOT)) for cls in everyone for pattern in listed(kind) for p in files(cls, pattern)}
    searched = [
        *ROOT.glob("*.md"),
        *(p for f in ("lightning_tricks", "tests", "docs", "examples") for p in (ROOT / f).rglob("*")),
    ]
    for path in searched:
        if path.suffix in (".py", ".md", ".txt", ".yaml") and all(mentioned(cls, path) for cls in everyone):
            name = str(path.relative_to(ROOT))
            assert name in known | GENERATED | FOR_READERS | MENTIONS, f"{name} mentions all: {kind}"
