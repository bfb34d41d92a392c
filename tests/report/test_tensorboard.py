"""What a user sees in TensorBoard: over its own HTTP endpoints, and in a browser where there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread

from lightning_tricks import (
    DeadUnits,
    GradientAccumulation,
    GradientClip,
    GradientMonitor,
    LRFinder,
    LRSchedule,
    PredictionCollapse,
    TrainingDoctor,
)
from tests.problems import WithHyperparameters, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning"),
    pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning"),  # what TensorBoard uses
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run with many tricks, and a TensorBoard that shows it."""
    from tensorboard import program

    folder = tmp_path_factory.mktemp("board")
    torch.manual_seed(0)
    tricks = [
        LRFinder(num_steps=40, apply=False),
        GradientMonitor(update_ratio=True),
        GradientClip(0.5),
        LRSchedule("cosine"),
        GradientAccumulation(2),
        TrainingDoctor(every_n_steps=4, action="log"),
        DeadUnits(every_n_steps=4, action="log"),
        PredictionCollapse("net", every_n_steps=4, action="log"),
    ]
    fit(WithHyperparameters(), tricks, n=160, max_epochs=4, logger=TensorBoardLogger(folder, "run", "0"))
    server: Any = program.TensorBoard()
    arguments = ["--logdir", str(folder), "--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    server.configure([None, *arguments])
    yield server.launch()


def ask(url: str, body: dict[str, Any] | None = None, **parameters: str) -> Any:
    query = "?" + urllib.parse.urlencode(parameters) if parameters else ""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + query, data, {"Content-Type": "application/json"} if data else {})
    for _ in range(50):  # TensorBoard reads the logs in the background
        with urllib.request.urlopen(request, timeout=20) as answer:
            found = json.load(answer)
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(url)


RUN = "run/0"


def test_the_dashboard_is_one_click_away_and_its_charts_find_their_values(board: str) -> None:
    layout = ask(board + "data/plugin/custom_scalars/layout")
    titles = {category["title"]: category["chart"] for category in layout["category"]}
    assert list(titles) == ["training", "gradients", "schedule", "collapse", "diagnosis"], (
        "those of the callbacks in the run"
    )
    shown = {}
    for charts in titles.values():
        for chart in charts:
            tags: set[str] = set()
            for pattern in chart["multiline"]["tag"]:
                found = ask(board + "data/plugin/custom_scalars/scalars", run=RUN, tag=pattern)
                assert found["regex_valid"], pattern
                tags |= set(found["tag_to_events"])
            shown[chart["title"]] = tags
    assert shown["global norm, log10"] == {"grad/norm_log10"}
    assert shown["clipping"] == {"grad/clip_coefficient", "grad/clipped_fraction"}
    assert "grad/norm/net.0.weight" in shown["norm of each parameter"]
    assert shown["learning rate"] == {"schedule/lr"}
    assert "collapse/dead_units/alarm" in shown["alarms"]
    assert shown["loss"] == {"diagnosis/training_doctor/loss", "diagnosis/training_doctor/fixed_batch_loss"}
    assert all(shown.values()), "no chart is empty"


def test_the_pictures_are_there(board: str) -> None:
    images = ask(board + "data/plugin/images/tags")[RUN]
    assert {"lr_finder", "grad/layers", "diagnosis/training_doctor/figure"} <= set(images)


def test_hyperparameters_hold_the_tricks_beside_the_modules_own(board: str) -> None:
    experiment = ask(board + "data/plugin/hparams/experiment", {"experimentName": "", "hparamsLimit": 500})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"width", "tricks", "GradientClip/rule", "GradientAccumulation/batches"} <= names
    assert not {"LRSchedule/decay", "GradientMonitor/per_layer"} & names, "these are the defaults"


def test_values_are_those_of_the_run(board: str) -> None:
    updates = ask(board + "data/plugin/scalars/scalars", run=RUN, tag="trainer/updates")
    assert [row[2] for row in updates][-1] == 40.0
    rates = ask(board + "data/plugin/scalars/scalars", run=RUN, tag="schedule/lr")
    assert 0 < rates[-1][2] < rates[5][2]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: nobody to look at the page")
def test_a_browser_shows_the_dashboard(board: str, tmp_path: Path) -> None:
    def chromium(page: str, *arguments: str) -> str:
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1600,1400",
            "--virtual-time-budget=15000",
        ]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [str(CHROMIUM), *flags, profile, *arguments, f"{board}#{page}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout

    text = chromium("timeseries", "--dump-dom")
    for shown in ("Custom Scalars", "collapse/dead_units", "lr_finder", "schedule", "diagnosis"):
        assert shown in text
    chromium("custom_scalars", f"--screenshot={tmp_path / 'board.png'}")
    pixels = imread(tmp_path / "board.png")[..., :3] * 255
    line = (abs(pixels - [255, 112, 67]).max(axis=-1) < 12).sum()  # the colour of the only run
    assert line > 2000, "the charts are empty"
