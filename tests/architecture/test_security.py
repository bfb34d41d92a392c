"""What the package must never do, read off its syntax trees; names that become files; memory that must not grow."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_tricks import AGC, GradientClip, GradientMonitor, LRSchedule, PredictionCollapse
from lightning_tricks.detection.judge import MOST_POINTS, Judge
from lightning_tricks.diagnosis import autopsy
from lightning_tricks.diagnosis.course_probe import CourseParts, CourseProbe, CourseReading
from lightning_tricks.diagnosis.gradient_health import GradientReading
from lightning_tricks.diagnosis.reference_batch import ReferenceReading
from lightning_tricks.gradients.layer_history import LayerHistory
from lightning_tricks.modules.selection import LONGEST_PATTERN, check_patterns, fault_of
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.optimizer_step.loss_scale import LossScale
from lightning_tricks.publishing.publish import Publisher
from lightning_tricks.report import blocks as page_blocks
from lightning_tricks.report import rendering

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "lightning_tricks").rglob("*.py")), ROOT / "lightning_tricks_from_environment.py"]

# modules that run what they read, or that talk to others; (file, module) that may, and why
MODULES = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "codeop", "ctypes"),
    *("urllib", "requests", "http", "httpx", "aiohttp", "socket", "ssl", "ftplib", "smtplib", "telnetlib", "xmlrpc"),
    *("subprocess", "webbrowser", "pty"),
}
MAY_IMPORT = {
    ("cli.py", "subprocess"),  # `lightning-tricks demo` and `bench`: Python itself, on files of this repository
}
CALLS = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnl", "os.startfile"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "tempfile.mktemp", "torch.hub.load"),
    *("torch.serialization.add_safe_globals", "torch.package.PackageImporter"),
}


def nodes(kind: Any) -> Iterator[tuple[Path, Any]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield path, node


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_no_module_is_imported_that_runs_what_it_reads_or_talks_to_others() -> None:
    for path, node in nodes((ast.Import, ast.ImportFrom)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for name in names:
            root = name.split(".")[0]
            assert root not in MODULES or (path.name, root) in MAY_IMPORT, f"{path.name}:{node.lineno} imports {name}"


def test_nothing_is_called_that_runs_a_text() -> None:
    for path, node in nodes(ast.Call):
        name = called(node)
        assert name not in CALLS, f"{path.name}:{node.lineno} calls {name}"
        assert "add_safe_globals" not in name, f"{path.name}:{node.lineno}"
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            assert not (keyword.arg == "shell" and value is not False), f"{path.name}:{node.lineno}: shell="
            assert not (keyword.arg == "weights_only" and value is False), f"{path.name}:{node.lineno}"
        if name == "torch.load":
            only = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert only.get("weights_only") == "True", f"{path.name}:{node.lineno}: torch.load"


def test_arguments_are_not_checked_with_assert() -> None:
    """``python -O`` leaves asserts out."""
    for path, node in nodes(ast.FunctionDef):
        if node.name in ("__init__", "__post_init__", "load_state_dict") or node.name.startswith(("require_", "as_")):
            assert not [n for n in ast.walk(node) if isinstance(n, ast.Assert)], f"{path.name}:{node.lineno}"


# -- names that become files ----------------------------------------------------------------------------------------------

HOSTILE = ["../../x", "a/b", "/etc/passwd", "con", "..", ".", "", "a\x00b", "a\nb", "x" * 5000, "C:\\x", "~", "ä" * 300]


def test_a_picture_with_any_name_stays_in_the_folder_of_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    blocks = [page_blocks.Picture(name, name, b"png") for name in HOSTILE]
    text = rendering.as_markdown("title", blocks, folder / "report.md")
    made = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(made) == len(HOSTILE)
    for path in made:
        assert path.parent == folder / "report_files"
        assert set(path.stem) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
        assert len(path.name) <= 80
        assert path.stem[0].isdigit()  # so none is a device of Windows, as `con` is
        assert f"report_files/{path.name}" in text


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_report_of_a_death_has_fixed_names_whatever_the_layers_are_called(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    autopsy.write({"why": name, "culprit": name, name: [name]}, folder)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        f"run/{autopsy.JSON_NAME}",
        f"run/{autopsy.TEXT_NAME}",
    }


def test_markdown_and_html_of_a_report_quote_what_came_from_a_log() -> None:
    evil = "<script>alert(1)</script>"
    blocks = [
        page_blocks.Heading("h"),
        page_blocks.Paragraph(evil),
        page_blocks.Bullets((evil,)),
        page_blocks.Table((evil,), ((evil,),)),
    ]
    assert "<script>" not in rendering.as_html(evil, blocks)
    assert "\\<script>" in rendering.as_markdown(evil, blocks, Path("report.md"))


# -- patterns -------------------------------------------------------------------------------------------------------------


def test_patterns_of_users_have_a_longest_length_everywhere() -> None:
    fits, long = "a" * LONGEST_PATTERN, "a" * (LONGEST_PATTERN + 1)
    assert fault_of(fits) is None
    for make in (
        lambda p: GradientMonitor(groups={"x": p}),
        lambda p: GradientClip(groups={"x": p}),
        lambda p: LRSchedule(overrides={p: 0.1}),
        lambda p: AGC(exclude=(p,)),
        lambda p: check_patterns("GradientMonitor", {"x": p}),
    ):
        make(fits)
        with pytest.raises(ValueError, match="1,001 characters, and at most 1,000 are allowed"):
            make(long)
    assert fault_of("(" * 900) is not None


# -- memory ---------------------------------------------------------------------------------------------------------------

STEPS = 100_000


def test_a_publisher_keeps_as_much_after_many_steps_as_after_few() -> None:
    put = Publisher(lambda: [])
    for step in range(STEPS):
        put.put(step, {"grad/norm": 1.0, "grad/clip_coefficient": 0.5, "amp/skipped_steps": float(step)})
        if step % 1000 == 0:
            put.put_many(step, ["grad/norm/a"], torch.ones(1))
    put.flush()
    assert len(put.latest) == 4
    assert not put._travelling
    assert all(len(points) <= 2000 for points in put._record.values())


def test_a_monitor_keeps_as_much_after_many_steps_as_after_few() -> None:
    history = LayerHistory()
    for step in range(STEPS):
        history = history.after(["a", "b"], step, [1.0, 2.0])
    assert len(history.columns) <= 256
    assert history.columns[0][0] == 0 and history.columns[-1][0] > 0.99 * STEPS


def test_a_page_holds_what_belongs_to_one_attempt() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    page_ = Page(OptimizerView(0, torch.optim.SGD([p], lr=1.0), {}, LossScale(None)), 0, 1, [])
    sizes = []
    for _ in range(1000):
        page_.norms(), page_.total(), page_.values()
        sizes.append(sum(len(value) for value in vars(page_).values() if isinstance(value, (dict, list))))
    assert len(set(sizes)) == 1


def fake_run() -> Any:
    publisher = Publisher(lambda: [])
    return SimpleNamespace(publisher=publisher, tricks=[])


def test_the_history_of_a_detector_is_thinned_out_and_keeps_both_ends() -> None:
    trick, run = PredictionCollapse("head"), fake_run()
    known = {"skill": 0.9, "cross_entropy": 0.1, "_spread": 0.8, "_score": 9.0, "association": 9.0, "seen_before": 0.0}
    watch = trick.watch
    watch.probe.read = lambda vector, judge: dict(known)  # type: ignore[method-assign]
    for step in range(STEPS):
        watch.hear(run, step, 1.0, [])
    run.publisher.drop()
    history = trick.history
    assert len(history) <= MOST_POINTS
    assert history[0][0] == 0 and history[-1][0] == STEPS - 1
    steps = [step for step, _ in history]
    assert steps == sorted(set(steps))
    assert all(len(state["last"]) <= 8 for state in watch.judge.states.values())


def test_the_curves_of_a_doctor_are_thinned_out_together() -> None:
    probe, judge = CourseProbe(CourseParts.made(), 3), Judge("TrainingDoctor", {}, lambda name: 1.0)
    probe.manual = True
    reference = ReferenceReading(0.5, there=True, failed=False, shown=[0.25, 0.25])
    reading = CourseReading([1.0], GradientReading([], math.nan, [], math.nan), False, math.nan, 0.0, 1.0, reference)
    for _ in range(STEPS // 10):
        probe.follow(reading, judge)
    course = probe.course
    assert len(course.checks) <= MOST_POINTS
    assert len(probe.parts.reference.predictions) <= MOST_POINTS and len(course.usual) <= 150
    assert course.checks[0].step == 1 and course.checks[-1].step == STEPS // 10
    assert all(math.isfinite(check.mean) for check in course.checks)
