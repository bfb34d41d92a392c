from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from PIL import Image

from lightning_tricks import GradientMonitor
from lightning_tricks.publishing.publish import Publisher
from lightning_tricks.publishing.tracker_ways import WAYS, offered
from lightning_tricks.publishing.trackers import Table, folder_of, hand_over, is_of_another_rank, key_for, way_of
from tests.problems import Classifier, Memory, fit


def figure() -> Figure:
    drawn = Figure(figsize=(3, 2), dpi=50)
    drawn.subplots().plot([1, 2])
    return drawn


class TakesAll(Memory):
    """A logger of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[Any] = []
        self.experiment = SimpleNamespace(add_text=lambda name, text, step: self.got.append((name, text, step)))

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.got.append((key, images[0].size, step))

    def log_table(
        self, key: str, columns: Any = None, data: Any = None, dataframe: Any = None, step: Any = None
    ) -> None:
        self.got.append((key, columns, data, step))


def test_a_logger_is_served_by_its_methods_whatever_its_class() -> None:
    logger = TakesAll()
    publisher = Publisher(lambda: [logger])
    publisher.log_text(1, "note", "hello")
    publisher.tabulate(2, "table", ["a", "b"], [[1, 2.5]])
    publisher.draw(3, "picture", figure)
    assert logger.got == [("note", "hello", 1), ("table", ["a", "b"], [["1", "2.5"]], 2), ("picture", (150, 100), 3)]


def test_a_method_of_that_name_with_other_arguments_is_not_called() -> None:
    class Other(Memory):
        def log_table(self, rows: Any) -> None:
            pytest.fail("called with arguments that it does not take")

        def log_text(self, words: str) -> None:
            pytest.fail("called with arguments that it does not take")

    assert way_of(Other(), "table") is None
    Publisher(lambda: [Other()]).tabulate(0, "table", ["a"], [[1]])


def test_a_table_is_a_text_where_a_logger_has_no_tables() -> None:
    got: list[Any] = []
    logger = SimpleNamespace(experiment=SimpleNamespace(add_text=lambda *given: got.append(given)))
    assert hand_over(logger, "table", "t", lambda: Table(["a"], [["x | y\nz"]]), 4) is True
    assert got == [("t", "| a |\n| --- |\n| x \\| y z |", 4)]


def test_what_a_logger_does_not_take_lies_in_the_folder_of_its_run_and_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = CSVLogger(tmp_path)
    publisher = Publisher(lambda: [logger, Memory()])
    with caplog.at_level("INFO"):
        publisher.log_text(5, "diagnosis/note", "hello")
        publisher.tabulate(6, "diagnosis/../table:1", ["a", "b"], [["x, y", 1]])
        publisher.draw(7, "grad/layers", figure)
    said = [record.getMessage() for record in caplog.records] + capsys.readouterr().err.splitlines()
    kept = Path(logger.log_dir) / "lightning_tricks"
    (line,) = {line for line in said if "does not take" in line}
    assert line == f"CSVLogger does not take every text, table and picture. They are written into {kept}."
    assert (kept / "diagnosis/note/step_0000005.md").read_text() == "hello\n"
    rows = list(csv.reader(io.StringIO((kept / "diagnosis/_/table_1/step_0000006.csv").read_text())))
    assert rows == [["a", "b"], ["x, y", "1"]]
    assert Image.open(io.BytesIO((kept / "grad/layers/step_0000007.png").read_bytes())).size == (150, 100)


def test_nothing_is_made_where_nobody_takes_it() -> None:
    publisher = Publisher(lambda: [Memory()])
    publisher.draw(0, "picture", lambda: pytest.fail("drawn for nobody"))


def test_a_full_disk_costs_one_warning_and_the_numbers_go_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    class Full(Memory):
        log_dir = str(tmp_path / "file")  # no folder can be made in a file

    logger = Full()
    publisher = Publisher(lambda: [logger])
    with pytest.warns(RuntimeWarning, match=r"Full failed at step 0 \((NotADirectory|FileExists)Error") as caught:
        publisher.log_text(0, "note", "hello")
        publisher.log_text(1, "note", "hello")
        publisher.put(1, {"grad/norm": 1.0})
        publisher.flush()
    assert len(caught) == 1
    assert logger.series("grad/norm") == {1: 1.0}


def test_a_logger_whose_texts_or_arguments_fail_still_gets_its_numbers() -> None:
    class Picky(Memory):
        class experiment:
            @staticmethod
            def add_text(name: str, text: str, step: int) -> None:
                raise ValueError("too long")

        def log_hyperparams(self, *arguments: Any) -> None:
            raise ValueError("changing values is not allowed")

    logger = Picky()
    publisher = Publisher(lambda: [logger])
    with pytest.warns(RuntimeWarning, match="Picky failed at step 0 .*Each value is tried") as caught:
        publisher.introduce({"a": 1})
        publisher.log_text(0, "note", "hello")
        publisher.put(0, {"grad/norm": 1.0})
        publisher.flush()
    assert len(caught) == 1
    assert logger.series("grad/norm") == {0: 1.0}


def test_a_logger_that_lacks_a_package_for_a_table_gets_it_on_disk(tmp_path: Path) -> None:
    def log_table(key: str, columns: Any, data: Any, dataframe: Any = None, step: int = 0) -> None:
        raise ImportError("no pandas")

    logger = SimpleNamespace(log_table=log_table, log_dir=str(tmp_path))
    assert hand_over(logger, "table", "t", lambda: Table(["a"], [[1]]), 0) == tmp_path / "lightning_tricks"
    assert (tmp_path / "lightning_tricks/t/step_0000000.csv").read_text() == "a\n1\n"


def test_histograms_go_only_to_loggers_that_draw_them() -> None:
    """A logger without them was asked for ``add_histogram`` all the same, failed, and got no more numbers."""
    drawn: list[Any] = []

    class Draws(Memory):
        experiment = SimpleNamespace(add_histogram=lambda name, values, step: drawn.append((name, len(values), step)))

    numbers = Memory()
    fit(Classifier(), [GradientMonitor(histograms=True)], logger=[numbers, Draws()])
    assert len(numbers.series("grad/norm")) == 12
    assert ("grad/histogram/net.4.bias", 10, 11) in drawn


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("file:./mlruns", "a/b.c"),
        ("file:///tmp/mlruns", "a/b.c"),
        ("./mlruns", "a/b.c"),
        ("sqlite:///mlflow.db", "a/b/c"),
        ("https://tracker.example", "a/b/c"),
        ("databricks://profile", "a/b/c"),
    ],
)
def test_keys_are_flat_where_they_are_paths(uri: str, key: str) -> None:
    assert key_for(SimpleNamespace(experiment=SimpleNamespace(tracking_uri=uri)), "a/b/c") == key


def test_a_logger_without_an_experiment_keeps_its_keys() -> None:
    assert key_for(Memory(), "a/b/c") == "a/b/c"
    assert not is_of_another_rank(Memory())
    assert folder_of(Memory()) is None


def test_an_object_that_raises_its_own_error_for_unknown_names_offers_nothing() -> None:
    class Raises:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("legacy usage")

    assert offered(SimpleNamespace(experiment=Raises()), "experiment.add_text") is None
    assert all(way_of(SimpleNamespace(experiment=Raises()), kind) is None for kind in WAYS)


def test_a_method_without_a_signature_fits_only_where_none_is_asked_for() -> None:
    logger = SimpleNamespace(experiment=SimpleNamespace(add_text=str, log_text=type))
    assert way_of(logger, "text").called == "experiment.add_text"  # type: ignore[union-attr]
    assert way_of(SimpleNamespace(log_text=type), "text") is None
