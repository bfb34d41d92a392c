"""The methods by which loggers take texts, tables, pictures and histograms."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Kind = Literal["text", "table", "figure", "histogram"]


HandOver = Callable[[Any, str, Any, int], object]  # of the logger, the name, the content and the step


@dataclass(frozen=True)
class Way:
    """One way of handing something to a logger.

    Args:
        method: by which the logger is recognised, from the logger on, e.g. ``"experiment.add_text"``.
        arguments: names that the method must take: methods of one name differ between loggers.
        hand_over: called with the logger, the name, the content and the step.
        instead: the method that gets the content, where it is not the one by which the logger is recognised.
    """

    method: str
    arguments: tuple[str, ...]
    hand_over: HandOver
    instead: str | None = None

    @property
    def called(self) -> str:
        """The method that gets the content."""
        return self.instead or self.method

    def fits(self, logger: Any) -> bool:
        """Whether a logger has this method, with these arguments."""
        found = offered(logger, self.method)
        return callable(found) and set(self.arguments) <= _arguments_of(found)


def offered(logger: Any, path: str) -> Any:
    """Return what a logger has at a path of attributes; None where it has not.

    >>> offered("text", "upper.__name__"), offered("text", "experiment.add_text")
    ('upper', None)
    """
    found = logger
    for name in path.split("."):
        try:
            found = getattr(found, name, None)
        except Exception:  # Neptune's runs raise an error of their own for names that they do not know
            return None
    return found


def _arguments_of(method: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(method).parameters)
    except (TypeError, ValueError):  # of a class that is written in C
        return set()


def file_name(name: str, step: int, ending: str) -> str:
    """Return where a logger, or a folder, keeps something of a step."""
    return f"{name}/step_{step:07d}.{ending}"


def png(figure: Any) -> bytes:
    """Return a matplotlib figure as the bytes of a PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi="figure")
    return file.getvalue()


def _picture(figure: Any) -> Any:
    """Return a matplotlib figure as a picture of Pillow, which matplotlib brings along."""
    from PIL import Image

    return Image.open(io.BytesIO(png(figure))).convert("RGB")


def _to_wandb_histogram(logger: Any, name: str, values: list[float], step: int) -> None:
    import wandb

    logger.log_metrics({name: wandb.Histogram(values)}, step)


def _to_aim(kind: str, convert: Callable[[Any], Any]) -> HandOver:
    def track(logger: Any, name: str, content: Any, step: int) -> None:
        import aim

        logger.experiment.track(getattr(aim, kind)(convert(content)), name=name, step=step)

    return track


def _to_neptune(logger: Any, name: str, figure: Any, step: int) -> None:
    from neptune.types import File

    logger.experiment[name].append(File.as_image(_picture(figure)), step=step)


# Arguments of WandbLogger's ``log_text`` and ``log_table``, and of ``track`` of Aim's runs.
_WANDB = ("columns", "data", "dataframe", "step")


_AIM = ("value", "name", "step", "context")


# The first one that fits a logger is taken. A table without a way of its own is sent as text.
WAYS: Mapping[Kind, tuple[Way, ...]] = {
    "text": (
        # TensorBoard
        Way("experiment.add_text", (), lambda at, name, text, step: at.experiment.add_text(name, text, step)),
        # Weights & Biases
        Way("log_text", _WANDB, lambda at, name, text, step: at.log_text(name, ["text"], [[text]], step=step)),
        Way("log_text", ("key", "texts"), lambda at, name, text, step: at.log_text(name, [text], step=step)),
        Way(
            "experiment.log_text",
            # MLflow, whose client wants the run with each call
            ("run_id", "text", "artifact_file"),
            lambda at, name, text, step: at.experiment.log_text(at.run_id, text, file_name(name, step, "md")),
        ),
        Way(
            "experiment.log_text",
            # Comet
            ("text", "step", "metadata"),
            lambda at, name, text, step: at.experiment.log_text(text, step=step, metadata={"name": name}),
        ),
        # Aim
        Way("experiment.track", _AIM, _to_aim("Text", str)),
        Way(
            # Neptune, whose runs answer to any name; this method is recognised because only they have it
            "experiment.print_structure",
            (),
            lambda at, name, text, step: at.experiment[name].append(text, step=step),
            instead="experiment[name].append",
        ),
    ),
    "table": (
        Way("log_table", _WANDB, lambda at, name, t, step: at.log_table(name, list(t.columns), t.cells, step=step)),
        Way(
            "experiment.log_table",
            ("run_id", "data", "artifact_file"),
            lambda at, name, t, step: at.experiment.log_table(
                at.run_id,
                {c: [row[i] for row in t.cells] for i, c in enumerate(t.columns)},
                file_name(name, step, "json"),
            ),
        ),
        Way(
            "experiment.log_table",
            ("filename", "tabular_data", "headers"),
            lambda at, name, t, step: at.experiment.log_table(
                file_name(name, step, "csv"), tabular_data=t.cells, headers=list(t.columns)
            ),
        ),
    ),
    "figure": (
        Way("experiment.add_figure", (), lambda at, name, fig, step: at.experiment.add_figure(name, fig, step)),
        Way("log_image", ("key", "images"), lambda at, name, fig, step: at.log_image(name, [_picture(fig)], step=step)),
        Way(
            "experiment.log_image",
            ("run_id", "image", "key", "step"),
            lambda at, name, fig, step: at.experiment.log_image(at.run_id, _picture(fig), key=name, step=step),
        ),
        Way(
            "experiment.log_figure",
            ("figure_name", "figure", "step"),
            lambda at, name, fig, step: at.experiment.log_figure(figure_name=name, figure=fig, step=step),
        ),
        Way("experiment.track", _AIM, _to_aim("Image", _picture)),
        Way("experiment.print_structure", (), _to_neptune, instead="experiment[name].append"),
    ),
    "histogram": (
        Way(
            "experiment.add_histogram",
            (),
            lambda at, name, values, step: at.experiment.add_histogram(name, torch.tensor(values), step),
        ),
        Way("log_table", _WANDB, _to_wandb_histogram, instead="log_metrics"),
        Way(
            "experiment.log_histogram_3d",
            ("values", "name", "step"),
            lambda at, name, values, step: at.experiment.log_histogram_3d(values, name=name, step=step),
        ),
        Way("experiment.track", _AIM, _to_aim("Distribution", list)),
    ),
}
