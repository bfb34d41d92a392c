"""Which logger gets what: one row per logger, and the page ``docs/loggers.md`` that is made of them.

Each row is compared with the logger itself, in ``test_trackers.py``, by a training that is read back from its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KINDS = ("text", "table", "figure", "histogram")
KEPT = "kept on disk"
NOT_SENT = "not sent"


@dataclass(frozen=True)
class Row:
    """A logger.

    Args:
        package: whose import name must be there for its test.
        logger: what stands in ``Trainer(logger=...)``.
        methods: kind -> the method that gets it; ``"text"`` for a table that is sent as text.
        tested: how its test runs without an account.
    """

    package: str
    logger: str
    methods: Mapping[str, str]
    tested: str


def _row(package: str, logger: str, text: str, table: str, figure: str, histogram: str, tested: str) -> Row:
    return Row(package, logger, dict(zip(KINDS, (text, table, figure, histogram), strict=True)), tested)


_BOARD = ("experiment.add_text", "text", "experiment.add_figure", "experiment.add_histogram")

LOGGERS: dict[str, Row] = {
    "TensorBoard": _row("tensorboard", "TensorBoardLogger()", *_BOARD, "event files"),
    "CSV": _row("csv", "CSVLogger()", KEPT, KEPT, KEPT, NOT_SENT, "`metrics.csv` and the folder beside it"),
    "Weights & Biases": _row(
        "wandb",
        "WandbLogger()",
        "log_text",
        "log_table",
        "log_image",
        "log_metrics",
        "`offline=True`: the file `run-*.wandb` and the media beside it",
    ),
    "MLflow": _row(
        "mlflow",
        'MLFlowLogger(tracking_uri="sqlite:///mlflow.db")',
        "experiment.log_text",
        "experiment.log_table",
        "experiment.log_image",
        NOT_SENT,
        "a SQLite database and its artifacts",
    ),
    "Comet": _row(
        "comet_ml",
        "CometLogger()",
        "experiment.log_text",
        "experiment.log_table",
        "experiment.log_figure",
        "experiment.log_histogram_3d",
        "an `OfflineExperiment` and its archive",
    ),
    "Neptune": _row(
        "neptune",
        "a logger whose `experiment` is a `neptune.Run`",
        "experiment[name].append",
        "text",
        "experiment[name].append",
        NOT_SENT,
        '`mode="offline"`: the log of its operations',
    ),
    "ClearML": _row("clearml", "TensorBoardLogger() after clearml.Task.init()", *_BOARD, "`Task.set_offline(True)`"),
    "Aim": _row(
        "aim",
        "aim.pytorch_lightning.AimLogger()",
        "experiment.track",
        "text",
        "experiment.track",
        "experiment.track",
        "a local repository",
    ),
    "SwanLab": _row(
        "swanlab",
        "swanlab.integration.pytorch_lightning.SwanLabLogger()",
        "log_text",
        "text",
        "log_image",
        NOT_SENT,
        '`mode="offline"`: its media files',
    ),
}

_CELLS = {KEPT: KEPT, NOT_SENT: NOT_SENT, "text": "as Markdown text"}

_NOTES = """
Numbers go to every logger by its `log_metrics`, at the step to which they belong. All else is handed over by what a
logger offers, which is told by its methods and their arguments and not by its class: a logger of your own that has
`experiment.add_text`, `log_image(key, images)` or one of the other methods of this table is served as well.

What a logger does not take is written into the folder `lightning_tricks` in the folder of its run, and one line says so:
texts as Markdown, tables as CSV, pictures as PNG, each named by its key and its step. Histograms are not kept; where no
logger takes them, `GradientMonitor(histograms=True)` warns when the fit starts. A logger that fails costs one warning
and never the training.

| package | what to know |
| --- | --- |
| MLflow | Its file store (`file:./mlruns`, Lightning's default) is refused by MLflow itself since 3.x; use a database. \
Parameters cannot change within a run: where a second fit has other arguments, one warning says so. |
| Comet | Lightning 2.6 makes a *disabled* experiment of `CometLogger(online=False)`, which keeps nothing; \
for offline work assign a `comet_ml.OfflineExperiment` to `logger._experiment`. |
| Neptune | The service has ended, and `NeptuneLogger` of Lightning 2.6 refuses to be made. Runs of the client are served. |
| ClearML | Captures what the `TensorBoardLogger` writes, once `Task.init` was called before it. |
| Aim, SwanLab | Their own loggers for Lightning. |

`pip install 'lightning-tricks[trackers]'` installs the packages that the tests use.
"""


def loggers_page() -> str:
    """The page ``docs/loggers.md``."""
    lines = ["# Which logger gets what", "", "Made from `tests/trackers/table.py`; every row is a test.", ""]
    lines += ["| | `Trainer(logger=...)` | texts | tables | pictures | histograms |", "| --- " * 6 + "|"]
    for name, row in LOGGERS.items():
        cells = [_CELLS.get(method, f"`{method}`") for method in row.methods.values()]
        logger = row.logger if "`" in row.logger else f"`{row.logger}`"
        lines.append(f"| {name} | {logger} | {' | '.join(cells)} |")
    lines += [*_NOTES.rstrip("\n").split("\n"), "", "| logger | its test reads back |", "| --- | --- |"]
    lines += [f"| {name} | {row.tested} |" for name, row in LOGGERS.items()]
    return "\n".join(lines) + "\n"
