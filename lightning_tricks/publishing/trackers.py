"""What loggers take beside numbers: texts, tables, pictures and histograms, each handed over by what the logger offers.

A logger is recognised by its methods and their arguments, not by its class, so that one of the user's own that has
``add_text`` or ``log_image`` is served as well. What a logger does not take is written into the folder of its run.
"""

from __future__ import annotations

import csv
import inspect
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

Kind = Literal["text", "table", "figure", "histogram"]
HandOver = Callable[[Any, str, Any, int], object]  # of the logger, the name, the content and the step

_ENDINGS = {"text": "md", "table": "csv", "figure": "png"}
FOLDER = "lightning_tricks"  # inside the folder of a run, for what its logger does not take


@dataclass(frozen=True)
class Table:
    """Rows under names.

    Args:
        columns: their names.
        rows: one cell per column; cells are shown by ``str``.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text, as loggers want them whose columns have one type."""
        return [[str(cell) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        r"""Return the table as Markdown.

        >>> Table(["check", "result"], [["loss", "1 | 2"]]).markdown()
        '| check | result |\n| --- | --- |\n| loss | 1 \\| 2 |'
        """
        rows = [list(self.columns), ["---"] * len(self.columns), *self.cells]
        return "\n".join("| " + " | ".join(_in_a_cell(cell) for cell in row) + " |" for row in rows)

    def csv(self) -> str:
        r"""Return the table as comma-separated values.

        >>> Table(["a", "b"], [[1, "x, y"]]).csv()
        'a,b\n1,"x, y"\n'
        """
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.cells)
        return file.getvalue()


def _in_a_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


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


def _file(name: str, step: int, ending: str) -> str:
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
            lambda at, name, text, step: at.experiment.log_text(at.run_id, text, _file(name, step, "md")),
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
                _file(name, step, "json"),
            ),
        ),
        Way(
            "experiment.log_table",
            ("filename", "tabular_data", "headers"),
            lambda at, name, t, step: at.experiment.log_table(
                _file(name, step, "csv"), tabular_data=t.cells, headers=list(t.columns)
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


def key_for(logger: Any, key: str) -> str:
    """Return a key as a logger can hold it beside its other keys.

    ``grad/norm`` and ``grad/norm/net.0.weight`` cannot both be there where keys are paths of files or of attributes: in
    MLflow's file store and in Neptune. For these, all but the first ``/`` become dots.

    Example:
        >>> from types import SimpleNamespace as Has
        >>> key_for(Has(experiment=Has(tracking_uri="file:./mlruns")), "grad/norm/net.0.weight")
        'grad/norm.net.0.weight'
    """
    uri = offered(logger, "experiment.tracking_uri")
    in_files = isinstance(uri, str) and (uri.startswith("file:") or ":" not in uri)
    if not in_files and offered(logger, "experiment.print_structure") is None:
        return key
    first, *rest = key.split("/", 1)
    return "/".join([first, *(part.replace("/", ".") for part in rest)])


def way_of(logger: Any, kind: Kind) -> Way | None:
    """Return how a logger takes something of a kind; None where it does not.

    Example:
        >>> from types import SimpleNamespace as Has
        >>> way_of(Has(experiment=Has(add_text=print)), "text").method
        'experiment.add_text'
        >>> way_of(Has(experiment=Has(add_text=print)), "figure") is None
        True
    """
    return next((way for way in WAYS[kind] if way.fits(logger)), None)


def hand_over(logger: Any, kind: Kind, name: str, content: Callable[[], Any], step: int) -> Path | bool:
    """Hand something to a logger, or write it into the folder of its run.

    Args:
        logger: any of Lightning's, or with its interface.
        kind: of the content: Markdown text, a ``Table``, a matplotlib figure, or a list of floats.
        name: with ``/`` between its parts, like a log key.
        content: makes it; not called where nobody takes it.
        step: on the x axis of Lightning's loggers.

    Returns:
        True where the logger took it; the folder where it is now; False where the run has no folder either.

    Raises:
        ImportError: the content cannot be made, since a package is missing.
    """
    name, way, made = key_for(logger, name), way_of(logger, kind), content
    if way is None and kind == "table":
        way, made = way_of(logger, "text"), lambda: content().markdown()
    if way is not None:
        ready = made()
        with suppress(ImportError):  # (a logger may need a package for its tables that its user does without)
            way.hand_over(logger, name, ready, step)
            return True
    folder = folder_of(logger)
    if folder is None or kind == "histogram":
        return False
    _keep(folder / FOLDER, kind, name, content(), step)
    return folder / FOLDER


def folder_of(logger: Any) -> Path | None:
    """Return the folder of a logger's run, None where it has none on this machine.

    Example:
        >>> from types import SimpleNamespace as Has
        >>> str(folder_of(Has(log_dir="logs/version_0"))), folder_of(Has(log_dir=None, save_dir=None))
        ('logs/version_0', None)
    """
    for name in ("log_dir", "save_dir"):
        found = getattr(logger, name, None)
        if isinstance(found, (str, Path)):
            return Path(found)
    return None


def _keep(folder: Path, kind: Kind, name: str, content: Any, step: int) -> None:
    # Keys may hold what file names must not (``:`` on Windows), and a part of dots alone would lead out of the folder.
    safe = "/".join(re.sub(r"[^\w. -]", "_", part).strip(". ") or "_" for part in name.split("/"))
    path = folder / _file(safe, step, _ENDINGS[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "figure":
        path.write_bytes(png(content))
    else:
        path.write_text(content.csv() if kind == "table" else content + "\n", encoding="utf-8")


def is_of_another_rank(logger: Any) -> bool:
    """Whether a logger belongs to a process that does not log: Lightning's stand-in there has every method."""
    # By its name: the class is private, and there is one in each of Lightning's two namespaces.
    return type(offered(logger, "experiment")).__name__ == "_DummyExperiment"
