"""Every fault with every callback: ``docs/reliability.md``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.covering import played
from tests.faults import scenes
from tests.faults.scenes import nothing_left, play
from tests.faults.table import ALWAYS, FAULTS, Fault, cells, page
from tests.matrix import EXAMPLES
from tests.problems import Classifier, trainer

CELLS = cells()
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("fault", "name"), CELLS)
def test_it_passes_or_is_refused_by_name_as_the_page_says(fault: Fault, name: str, tmp_path: Path) -> None:
    assert fault.play(name, tmp_path) == ("refused" if name in fault.refused_by else "passed")


def test_the_page_is_of_these_faults() -> None:
    committed = Path(__file__).parents[2] / "docs" / "reliability.md"
    assert committed.read_text() == page(), "python -m tests.faults writes it"
    assert {fault.number for fault in FAULTS} == set(range(1, 26))
    assert f"{len(CELLS)} cells" in (committed.parents[1] / "README.md").read_text()
    every = {(fault.what, name) for fault in FAULTS for name in fault.cells}
    assert {(cell.values[0].what, cell.values[1]) for cell in CELLS} == every
    assert len(every) == len(CELLS)


@pytest.mark.parametrize("starts", [True, False])
def test_every_run_plays_every_fault_and_strikes_every_callback(starts: bool) -> None:
    struck = {(fault.what, name) for fault, name in played(CELLS) if fault.starts is starts and not fault.together}
    assert {what for what, _ in struck} == {f.what for f in FAULTS if f.starts is starts and not f.together}
    assert {name for _, name in struck} == set(EXAMPLES)
    if not starts:
        assert {(f.what, name) for f in FAULTS if not (f.starts or f.together) for name in ALWAYS} <= struck


# -- that the cells can fail ----------------------------------------------------------------------------------------


def test_a_thread_or_a_file_that_is_left_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="left open"), nothing_left(tmp_path):
        held = open(tmp_path / "log", "w")  # noqa: SIM115
    held.close()


def test_a_hook_that_is_left_is_found() -> None:
    module, t = Classifier(), trainer()
    handle = module.net[0].register_forward_hook(lambda *args: None)  # type: ignore[union-attr,operator]
    with pytest.raises(AssertionError, match="Linear"):
        scenes.no_hooks(t, module)
    handle.remove()
    scenes.no_hooks(t, module)


def test_an_observer_that_changes_the_weights_is_found(tmp_path: Path) -> None:
    def bent(tricks: Any, folder: Path, arguments: Any) -> Any:
        module = Classifier()
        scenes.fitted(module, tricks, arguments)
        if tricks:
            module.net[0].weight.data[0, 0] += 1e-7  # type: ignore[index,union-attr,operator]
        return module

    with pytest.raises(AssertionError, match="only observes"):
        play(bent, "GradientMonitor", tmp_path)


def test_lightning_itself_dies_of_a_full_disk(tmp_path: Path) -> None:
    """The control of fault 13: the same scene without a callback of ours."""
    loggers = [scenes.CSVLogger(tmp_path, flush_logs_every_n_steps=1)]
    handler = signal.getsignal(signal.SIGTERM)
    with scenes.full_disk() as fill, pytest.raises(OSError):
        full = scenes.At("on_train_batch_start", 3, fill)
        scenes.fitted(scenes.Logging(), [full], {"logger": loggers})
    signal.signal(signal.SIGTERM, handler)  # Lightning leaves its own behind then
