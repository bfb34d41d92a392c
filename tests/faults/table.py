"""The faults, what is played for each, and which callbacks refuse one by name. The page ``docs/reliability.md``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import covering
from tests.faults import children, scenes
from tests.faults.children import EVERYTHING
from tests.matrix import EXAMPLES, OBSERVERS


@dataclass(frozen=True)
class Fault:
    """One fault, played with each callback."""

    number: int
    what: str
    then: str
    play: Callable[[str, Path], str]
    refused_by: tuple[str, ...] = ()
    together: bool = False  # too slow to be played with each alone
    starts: bool = False  # it starts processes
    imports: bool = False  # and these import everything anew, which takes twenty seconds

    @property
    def cells(self) -> list[str]:
        return [EVERYTHING] if self.together else sorted(EXAMPLES)


RESUMED = "the resumed run's weights are bit-identical to those of a run that was not struck"
CLEAN = "the error comes out unchanged, nothing is left behind, the same objects train on"
ONE = "one warning for each logger, training goes on to its end"
GUARDED = "as without the callback; with `GradientClip` or a loss scale, weights stay finite"
FINITE = "training goes on, weights are finite"
NAMED = "refused in one line that names the callback, or harmless"


def inside(scene: scenes.Scene) -> Callable[[str, Path], str]:
    return partial(scenes.play, scene)


FAULTS = [
    Fault(1, "kill -9 at some moment of some update", RESUMED, children.kill_at_any_step, starts=True),
    Fault(2, "kill -9 while a checkpoint is written", RESUMED, children.kill_while_writing, starts=True),
    Fault(3, "the same, temporary files on another filesystem", RESUMED, children.kill_while_writing_elsewhere, starts=True),
    Fault(4, "SIGTERM", f"hooks and handlers are given back; {RESUMED}", children.terminate, starts=True),
    Fault(5, "SIGINT (Ctrl-C)", f"hooks and handlers are given back; {RESUMED}", children.interrupt, starts=True),
    Fault(
        6, "SIGTERM to one of two processes", "both end at the process group's timeout; the last checkpoint is whole",
        children.terminate_one_of_two, together=True,
    ),
    Fault(7, "kill -9 of one of two processes", f"the other one ends; {RESUMED}", children.kill_one_of_two, starts=True),
    Fault(8, "an exception in `training_step`", f"{CLEAN}; {RESUMED}", inside(scenes.exception_in_training_step)),
    Fault(9, "an exception in each of 12 hooks of another callback", CLEAN, inside(scenes.exception_in_a_hook)),
    Fault(
        10, "an exception in another callback's `on_exception`",
        "Lightning tells nobody after it; the next fit removes what was left", inside(scenes.exception_in_on_exception),
    ),
    Fault(11, "a pruned trial", CLEAN, inside(scenes.pruned_trial)),
    Fault(12, "processes started by fork", FINITE, children.fork_launcher, starts=True),
    Fault(12, "processes started by spawn", FINITE, children.spawn_launcher, together=True, imports=True),
    Fault(13, "no space for logs (CSV and TensorBoard)", ONE, inside(scenes.disk_full_in_logger)),
    Fault(
        14, "no space for the checkpoint", f"the error comes out, the old checkpoint is whole; {RESUMED}",
        inside(scenes.disk_full_in_checkpoint),
    ),
    Fault(
        15, "the folder of logs is removed, or cannot be made", f"{ONE}; an error before the first step",
        inside(scenes.log_folder_gone),
    ),
    Fault(
        16, "checkpoint cut off (10 places), a bit flipped (10 places)",
        "an error; the checksum finds every flip", inside(scenes.corrupt_checkpoint),
    ),
    Fault(17, "a pickle that runs code, in the callback's state", "an error; it does not run", inside(scenes.hostile_pickle)),
    Fault(18, "a loss of NaN", GUARDED, inside(scenes.nan_loss)),
    Fault(19, "one infinite gradient", GUARDED, inside(scenes.one_infinite_gradient)),
    Fault(20, "overflow in float16 at the start", FINITE, inside(scenes.overflow_at_the_start)),
    Fault(21, "all gradients zero, a layer frozen", FINITE, inside(scenes.no_gradients)),
    Fault(22, "`training_step` returns None, once and always", FINITE, inside(scenes.no_loss)),
    Fault(23, "no batches; no optimizer", "training ends as without us", inside(scenes.nothing_to_train)),
    Fault(
        23, "data without a length", f"{FINITE}; what needs the length asks for it", inside(scenes.data_without_a_length),
        ("LRSchedule",),
    ),
    Fault(24, "state of another version, with keys missing, added or changed", NAMED, inside(scenes.state_of_another_version)),
    Fault(25, "resumed by another number of processes", FINITE, children.other_number_of_processes, starts=True),
    Fault(25, "resumed with another accumulation", FINITE, inside(scenes.other_accumulation)),
]  # fmt: skip


# what a fault has broken before: states that are carried over an interruption
ALWAYS = ("ExactResume", "GradientAccumulation", "LRFinder")


def cells() -> list[Any]:
    """Return every fault with every callback as parameters of a test; what waits for ``--slow`` has that marker.

    Of faults that are played in the process itself a run plays a third, and all with the callbacks of ``ALWAYS``; of
    those that start processes a quarter. Processes that import everything are left to ``--slow``: forked ones show the
    same but for the pickling of callbacks, and every callback is pickled in tests/together.
    """

    def name(fault: Fault, callback: str) -> str:
        return f"{fault.number}-{fault.what}-{callback}"

    alone = [fault for fault in FAULTS if not fault.together]
    within, starting = ([fault for fault in alone if fault.starts is starts] for starts in (False, True))
    found = covering.cells(within, sorted(EXAMPLES), one_in=3, always=lambda _, callback: callback in ALWAYS, name=name)
    found += covering.cells(starting, sorted(EXAMPLES), one_in=4, name=name)
    for fault in FAULTS:
        marks = [pytest.mark.slow] if fault.imports else []
        found += [pytest.param(fault, EVERYTHING, id=name(fault, EVERYTHING), marks=marks)] if fault.together else []
    return found


def page() -> str:
    """The page ``docs/reliability.md``."""
    tried = sum(len(fault.cells) for fault in FAULTS)
    refused = sum(len(fault.refused_by) for fault in FAULTS)
    lines = [
        "# What happens when something goes wrong",
        "",
        "Made from `tests/faults/table.py`; every cell is a test that plays the fault with one callback of the pack, and"
        " a callback that nobody thought of cannot be left out. Each run plays every fault and every callback in a fixed"
        " part of the cells, a third of them and a quarter of those that start processes;"
        f" {', '.join(f'`{name}`' for name in ALWAYS)} in all that start none. `--slow` plays all cells, and starts"
        " processes by spawn too.",
        "",
        f"**{len({fault.number for fault in FAULTS})} faults, {tried} cells: {tried - refused} passed, "
        f"{refused} refused by name.** 0 checkpoints lost or torn, 0 hooks, files or threads left behind, 0 processes "
        f"that hang for more than {children.LONGEST:.0f} s.",
        "",
        f"Callbacks that only observe ({', '.join(f'`{name}`' for name in OBSERVERS)}) leave the weights bit-identical "
        "to those of the run without them, in every one of these cells.",
        "",
        "| | fault | what holds | cells | passed | refused by name |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for fault in FAULTS:
        count = "all callbacks at once" if fault.together else str(len(fault.cells))
        passed = len(fault.cells) - len(fault.refused_by)
        names = ", ".join(f"`{name}`" for name in fault.refused_by) or "0"
        lines.append(f"| {fault.number} | {fault.what} | {fault.then} | {count} | {passed} | {names} |")
    lines += [
        "",
        "Checkpoints are written by `DurableCheckpointIO` and runs are resumed with `ExactResume` in these cells. How "
        "Lightning's own writer fares under `kill -9`, in hundreds of kills, is in `tests/resume/test_plugins.py`.",
        "",
        "SIGTERM to one of several processes: Lightning 2.6.6 lets them wait for one another "
        "([its issue 20806](https://github.com/Lightning-AI/pytorch-lightning/issues/20806)), with this pack as without "
        "it. What ends that is the process group's timeout, 30 minutes by default: "
        "`Trainer(strategy=DDPStrategy(timeout=timedelta(minutes=2)))`. Send the signal to all of them.",
    ]
    return "\n".join(lines) + "\n"
