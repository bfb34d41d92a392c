"""One small training with a real logger, in a process of its own: trackers patch torch, streams and each other.

``python -m tests.trackers.scene NAME FOLDER`` writes ``expected.json``: what a logger that only remembers got, and how
the real one was served.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT, TABLE, FIGURE = "diagnosis/note", "diagnosis/sanity", "grad/layers"


def _tensorboard(folder: Path) -> tuple[Any, Callable[[], Any]]:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder), lambda: None


def _csv(folder: Path) -> tuple[Any, Callable[[], Any]]:
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(folder), lambda: None


def _wandb(folder: Path) -> tuple[Any, Callable[[], Any]]:
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(offline=True, save_dir=folder)
    return logger, lambda: logger.experiment.finish()


def _mlflow(folder: Path) -> tuple[Any, Callable[[], Any]]:
    from lightning.pytorch.loggers import MLFlowLogger

    artifacts = (folder / "artifacts").as_uri()
    return MLFlowLogger(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=artifacts), lambda: None


def _mlflow_files(folder: Path) -> tuple[Any, Callable[[], Any]]:
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(tracking_uri=(folder / "runs").as_uri()), lambda: None


def _comet(folder: Path) -> tuple[Any, Callable[[], Any]]:
    import comet_ml
    from lightning.pytorch.loggers import CometLogger

    logger = CometLogger(online=False, offline_directory=str(folder))  # a disabled experiment, which keeps nothing
    logger._experiment = comet_ml.OfflineExperiment(offline_directory=str(folder))
    return logger, lambda: logger.experiment.end()


def _neptune(folder: Path) -> tuple[Any, Callable[[], Any]]:
    import neptune
    from lightning.pytorch.loggers import Logger

    class NeptuneRun(Logger):
        """What Lightning had until the service ended, in few lines."""

        name, version = "neptune", "0"

        def __init__(self) -> None:
            super().__init__()
            quiet = {"capture_stdout": False, "capture_stderr": False, "capture_hardware_metrics": False}
            self.experiment = neptune.init_run(project="a/b", mode="offline", **quiet)

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            for key, value in metrics.items():
                self.experiment[key].append(value, step=step)

        def log_hyperparams(self, params: dict[str, Any], *args: Any) -> None:
            self.experiment["parameters"] = {key: str(value) for key, value in params.items()}

    logger = NeptuneRun()
    return logger, logger.experiment.stop


def _clearml(folder: Path) -> tuple[Any, Callable[[], Any]]:
    os.environ["CLEARML_CACHE_DIR"] = str(folder)
    from clearml import Task

    Task.set_offline(True)
    task = Task.init(project_name="project", task_name="task")
    return _tensorboard(folder)[0], task.close


def _aim(folder: Path) -> tuple[Any, Callable[[], Any]]:
    from aim.pytorch_lightning import AimLogger

    return AimLogger(str(folder), system_tracking_interval=None, capture_terminal_logs=False), lambda: None


def _swanlab(folder: Path) -> tuple[Any, Callable[[], Any]]:
    import swanlab
    from swanlab.integration.pytorch_lightning import SwanLabLogger

    place = str(folder)
    return SwanLabLogger(project="project", mode="offline", log_dir=place, save_dir=place), swanlab.finish


MAKERS = {
    "TensorBoard": _tensorboard,
    "CSV": _csv,
    "Weights & Biases": _wandb,
    "MLflow": _mlflow,
    "MLflow's file store": _mlflow_files,
    "Comet": _comet,
    "Neptune": _neptune,
    "ClearML": _clearml,
    "Aim": _aim,
    "SwanLab": _swanlab,
}


def main(name: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", message=".*failed", category=RuntimeWarning)  # what the publisher says
    os.environ["COMET_OFFLINE_DIRECTORY"] = str(folder)
    logger, finish = MAKERS[name](folder)
    # imported after the makers: Comet and ClearML want to be first
    from lightning_tricks import GradientMonitor, SanityCheck
    from lightning_tricks.lifecycle.training_run import TrainingRun
    from lightning_tricks.lifecycle.trick import Trick
    from lightning_tricks.publishing.tracker_ways import WAYS
    from lightning_tricks.publishing.trackers import way_of
    from tests.problems import Classifier, Memory, fit

    class Speaks(Trick):
        """Sends a text."""

        def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
            run.publisher.log_text(2, TEXT, "**two** words")
            ways.update({kind: way_of(logger, kind) for kind in WAYS})  # Aim's would open a closed run again

    ways: dict[str, Any] = {}
    memory, sanity = Memory(), SanityCheck(overfit_batch=False)
    monitor = GradientMonitor(per_layer=True, histograms=True)
    fit(Classifier(), [sanity, monitor, Speaks()], logger=[logger, memory])
    finish()
    expected = {
        "series": {key: memory.series(key) for key in ("grad/norm", "grad/norm/net.0.weight")},
        "checks": [[check.name, check.mark, check.evidence, check.fix] for check in sanity.checks],
        "ways": {kind: way and way.called for kind, way in ways.items()},
        "size": [int(n) for n in monitor.plot().get_size_inches() * monitor.plot().dpi],
        "dpi": monitor.plot().dpi,
    }
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
