from __future__ import annotations

import base64
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_tricks import (
    AlarmError,
    GradientClip,
    GradientMonitor,
    LRSchedule,
    PredictionCollapse,
    Rollback,
    TrainingDoctor,
)
from lightning_tricks.numerics.error_parts import ErrorParts
from lightning_tricks.publishing.events import events
from lightning_tricks.report.all_keys import ALL_KEYS
from lightning_tricks.report.blocks import Bullets, Conclusion, Heading, Paragraph, Table
from lightning_tricks.report.logs import Logs, read_logs
from lightning_tricks.report.page import not_yet_done, story, timeline, watch, write_report
from tests.problems import Classifier, fit, sgd
from tests.report.problems import Page


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
def test_the_story_of_a_run_that_collapsed_and_was_rolled_back(tmp_path: Path) -> None:
    def spoil(i: int, loss: Any) -> Any:
        return loss * 40 if i > 60 else loss

    class Falls(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("train/loss", loss)
            return loss

    detector = PredictionCollapse("net", every_n_steps=4, patience=1, grace=8, action=Rollback(max_times=2))
    tricks = [
        GradientMonitor(),
        GradientClip(50.0),
        LRSchedule(),
        TrainingDoctor(every_n_steps=8, action="log"),
        detector,
    ]
    with suppress(AlarmError):  # when two rollbacks do not help
        fit(
            Falls(lambda p: sgd(p, lr=0.3), spoil=spoil),
            tricks,
            n=512,
            max_epochs=3,
            logger=TensorBoardLogger(tmp_path, "run"),
        )
    assert detector.verdict.alarmed or detector.history
    paths = write_report(tmp_path / "run")
    assert [p.name for p in paths] == ["report.html", "report.md"]
    page = Page(paths[0].read_text())
    assert not page.open
    assert page.sources and all(s.startswith("data:image/png;base64,") for s in page.sources)
    assert all(base64.b64decode(s.split(",", 1)[1]).startswith(b"\x89PNG") for s in page.sources)
    text = " ".join(page.words)
    for words in ("Results", "What to change next", "About this run", "What happened when", "All numbers"):
        assert words in text
    assert "rule=ClipNorm(max_norm=50.0" in text
    assert "rollback" in text and "weights and optimizer were put back" in text
    markdown = paths[1].read_text()
    for name in re.findall(r"\]\((report_files/[\w.-]+\.png)\)", markdown):
        assert (paths[1].parent / name).read_bytes().startswith(b"\x89PNG")
    assert "| GradientClip | " in markdown


def test_a_report_of_its_own_name_and_a_wrong_ending(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,2.0\n1,1.0\n")
    assert write_report(tmp_path, tmp_path / "mine.html") == [tmp_path / "mine.html"]
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(ValueError, match=r"a report is \.html or \.md"):
        write_report(tmp_path, tmp_path / "mine.pdf")


def texts(blocks: Any) -> str:
    return " ".join(b.text for b in blocks if isinstance(b, (Conclusion, Heading, Paragraph))) + str(
        [b for b in blocks if isinstance(b, (Bullets, Table))]
    )


def test_a_run_that_died_says_why_and_what_is_advised() -> None:
    health = {
        "why": "AlarmError: boom",
        "culprit": "weights are not finite",
        "verdicts": ["X: bad. Try: lower it; use LRFinder(); lower it: by half."],
    }
    logs = Logs(Path("run"), {"train/loss": [(0, 1.0), (9, 2.0)]}, health=health)
    blocks = story(logs)
    shown = texts(blocks)
    assert isinstance(blocks[0], Conclusion) and blocks[0].level == "bad" and blocks[0].title == "The run failed"
    assert "It ended with an error after 10 steps: AlarmError: boom." in shown
    assert "Where it came from: weights are not finite" in shown
    assert "'Use LRFinder().', 'Lower it: by half.'" in shown


def test_advice_of_which_the_doctor_is_not_sure_is_not_given_as_a_step() -> None:
    said = {
        "diagnosis/a": [(1, "a (step 1, confidence 40%): x. Next: do a.")],
        "diagnosis/b": [(1, "b (step 1, confidence 80%): x. Next: do b.")],
    }
    shown = story(Logs(Path("run"), {"train/loss": [(0, 1.0)]}, texts=said))
    advised = next(b for b in shown if isinstance(b, Bullets))
    assert advised.items == ("Do b.",)


def test_findings_that_contradict_a_stronger_one_or_were_taken_back_are_no_steps() -> None:
    said = {
        "diagnosis/oscillation": [(1, "oscillation (step 1, confidence 65%): x. Next: lower the rate.")],
        "diagnosis/learning_rate_too_low": [(2, "learning rate too low (step 2, confidence 70%): x. Next: raise it.")],
        "diagnosis/waiting_for_data": [(3, "waiting for data (step 3, confidence 80%): x. Next: use workers.")],
    }
    taken_back = {"diagnosis/waiting_for_data": [(3, 1.0), (9, 0.0)], "diagnosis/oscillation": [(1, 1.0)]}
    shown = story(Logs(Path("run"), {"train/loss": [(0, 1.0)], **taken_back}, texts=said))
    assert next(b for b in shown if isinstance(b, Bullets)).items == ("Raise it.",)


def test_a_verdict_is_stronger_than_a_hint_against_it() -> None:
    said = {
        "diagnosis/training_doctor/verdict": [
            (1, "TrainingDoctor: divergence since step 1 (seen at step 2): x. Try: lower it; clip.")
        ],
        "diagnosis/learning_rate_too_low": [(2, "learning rate too low (step 2, confidence 70%): x. Next: raise it.")],
    }
    shown = story(Logs(Path("run"), {"train/loss": [(0, 1.0)]}, texts=said))
    assert next(b for b in shown if isinstance(b, Bullets)).items == ("Lower it.", "Clip.")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"initial": 2.3, "training": 0.01}, "The task is solved"),
        ({"initial": 2.3, "training": 1.5}, "larger network"),
        ({"initial": 2.3, "training": 0.1, "validation_best": 0.5, "validation": 1.5}, "more data or augmentation"),
    ],
)
def test_where_the_error_comes_from(values: dict[str, float], words: str) -> None:
    scalars = {f"diagnosis/training_doctor/error/{name}": [(9, value)] for name, value in values.items()}
    shown = texts(story(Logs(Path("run"), scalars)))
    assert "Where the error comes from" in shown and words in shown


def error_of(**values: float) -> dict[str, Any]:
    return {f"diagnosis/training_doctor/error/{name}": [(9, value)] for name, value in values.items()}


def test_a_training_that_blew_up_has_no_parts_of_an_error() -> None:
    shown = texts(story(Logs(Path("run"), error_of(initial=0.5, training=8e23))))
    assert "Where the error" not in shown and "larger network" not in shown


def test_beside_an_alarm_the_parts_of_the_error_advise_nothing_of_their_own() -> None:
    verdict = "TrainingDoctor: vanishing gradients since step 3 (seen at step 9): x. Try: fewer layers."
    logs = Logs(Path("run"), error_of(initial=2.3, training=1.5), texts={"diagnosis/x/verdict": [(9, verdict)]})
    shown = texts(story(logs))
    assert "Training error (bias): 1.5" in shown and "larger network" not in shown


def test_what_to_change_has_steps_of_findings_and_nothing_else_of_a_summary() -> None:
    finding = "TrainingDoctor: plateau (step 2, confidence 90%): flat. Next: raise the rate; use momentum."
    summary = "\n\n".join([finding, *ErrorParts(2.3, 1.5, 1.6, 1.7).sentences()])
    logs = Logs(Path("run"), {"train/loss": [(0, 1.0)]}, texts={"diagnosis/summary": [(9, summary)]})
    steps = next(b for b in story(logs) if isinstance(b, Bullets)).items
    assert steps == ("Raise the rate.", "Use momentum.")


def test_without_losses_nothing_is_said_about_the_error() -> None:
    assert "Where the error" not in texts(story(Logs(Path("run"), {"train/loss": [(0, 1.0)]})))


def test_a_run_without_anything_is_told_as_such() -> None:
    shown = texts(story(Logs(Path("run"))))
    assert "There is no sign that the run failed. It took 0 steps." in shown and "Callbacks of" not in shown


def test_advice_names_no_callback_that_was_in_use(tmp_path: Path) -> None:
    said = {
        "collapse/x/verdict": [
            (1, "X: divergence since step 1 (seen at step 2): x. Try: clip: GradientClip(1.0); lower it: LRFinder().")
        ]
    }
    tricks = {"tricks": "GradientClip, LRSchedule"}
    shown = story(Logs(Path("run"), {"train/loss": [(0, 1.0)]}, texts=said, hyperparameters=tricks))
    steps = next(b for b in shown if isinstance(b, Bullets)).items
    assert steps == ("Clip at a lower threshold.", "Lower it: LRFinder().")
    assert not_yet_done("shuffle the data", ["LRFinder"]) == "shuffle the data"
    assert not_yet_done("find the module: PrecisionDoctor()", ["PrecisionDoctor"]) == ""


def test_a_page_needs_a_folder_that_is_there_and_a_run_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x.html: there is no folder .*nowhere. Make it first."):
        write_report(tmp_path, tmp_path / "nowhere" / "x.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: not a folder. Pass the folder of a run"):
        write_report(tmp_path / "file")


def test_a_failed_run_is_not_advised_to_train_longer() -> None:
    falling = {"train/loss": [(i, 200.0 - i) for i in range(200)]}
    facts = {"started": "2026-11-27T10:00:00+00:00", "ended": "2026-11-27T10:00:09+00:00"}
    for outcome, level in (("finished", "good"), ("failed: ValueError: x", "bad")):
        blocks = story(Logs(Path("run"), falling, facts={**facts, "outcome": outcome}))
        assert isinstance(blocks[0], Conclusion) and blocks[0].level == level
        assert ("train longer" in texts(blocks)) == (level == "good")


class Logging(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss


def test_the_page_of_a_real_run_begins_with_its_verdict_and_names_what_was_trained(tmp_path: Path) -> None:
    fit(Logging(), [GradientMonitor(), GradientClip(0.5)], logger=TensorBoardLogger(tmp_path, "run", "0"))
    logs = read_logs(tmp_path)
    blocks = story(logs)
    assert blocks[0] == Conclusion("good", "The run finished normally", blocks[0].text)  # type: ignore[union-attr]
    shown = texts(blocks)
    parameters = sum(p.numel() for p in Classifier().parameters())
    for words in (f"Logging, {parameters:,} parameters", "96 training samples, 12 batches", "SGD(lr=0.05)", "12 steps"):
        assert words in shown
    assert "('GradientMonitor', 'defaults')" in shown and "norm_type=2.0" not in shown.replace(
        "max_norm=0.5, norm_", ""
    )


def test_a_page_that_is_watched_is_renewed_until_the_run_has_ended(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,2.0\n1,1.0\n")
    facts = '{"started": "2026-11-27T10:00:00+00:00", "ended": %s}'
    (tmp_path / "run.json").write_text(facts % "null")
    seen: list[tuple[float, str]] = []

    def training_goes_on(seconds: float) -> None:
        seen.append((seconds, (tmp_path / "page.html").read_text()))
        if len(seen) == 3:
            ended = '"2026-11-27T11:00:00+00:00", "outcome": "finished"'
            (tmp_path / "run.json").write_text(facts % ended)

    (page,) = watch(tmp_path, tmp_path / "page.html", seconds=7, sleep=training_goes_on)
    assert [seconds for seconds, _ in seen] == [7, 7, 7]
    assert all('http-equiv="refresh" content="7"' in text and "The run is under way" in text for _, text in seen)
    assert "refresh" not in page.read_text() and "The run finished normally" in page.read_text()


def of(logs: Logs) -> list[object]:
    return [*timeline(logs, events(logs.scalars, ALL_KEYS))]


def test_many_events_of_a_kind_are_one_row() -> None:
    logs = Logs(Path("run"), {"grad/clip_coefficient": [(i, 0.5) for i in range(50)]})
    table = next(b for b in of(logs) if isinstance(b, Table))
    assert table.rows == (("0 to 49 (50 times)", "clip", ""),)


def test_an_event_has_the_step_at_which_it_was_logged() -> None:
    logs = Logs(Path("run"), {"collapse/dead_units/alarm": [(9, 0.0), (19, 0.0), (29, 1.0), (39, 1.0), (49, 0.0)]})
    table = next(b for b in of(logs) if isinstance(b, Table))
    assert table.rows == (("29", "alarm", "dead units"),)


def test_a_finding_is_not_told_again_beside_the_verdict_about_it() -> None:
    finding = "dead units (step 9, confidence 90%): 90% are dead. Next: a lower rate."
    verdict = "DeadUnits: dead units since step 3 (seen at step 9): 90% are dead. Try: a lower rate."
    other = "plateau (step 9, confidence 50%): the loss is flat. Next: wait."
    run = Logs(Path("run"), texts={"diagnosis/a": [(9, finding), (9, other)], "collapse/b/verdict": [(9, verdict)]})
    assert [b.text for b in of(run) if isinstance(b, Paragraph)][1:] == [f"Step 9: {other}", f"Step 9: {verdict}"]


def test_without_events_a_sentence_says_so() -> None:
    assert any(isinstance(b, Paragraph) and b.text.startswith("No update was clipped") for b in of(Logs(Path("run"))))
