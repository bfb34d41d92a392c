"""What loggers take beside numbers: texts, tables, pictures and histograms, each handed over by what the logger offers.

A logger is recognised by its methods and their arguments, not by its class, so that one of the user's own that has
``add_text`` or ``log_image`` is served as well. What a logger does not take is written into the folder of its run.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tricks.publishing.tracker_ways import WAYS, Kind, Way, file_name, offered, png

_ENDINGS = {"text": "md", "table": "csv", "figure": "png"}
FOLDER = "lightning_tricks"  # inside the folder of a run, for what its logger does not take


@dataclass(frozen=True)
class Table:
    """Rows under names."""

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
        texts = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
        return "\n".join("| " + " | ".join(row) + " |" for row in texts)

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
    """Return how a logger takes something of a kind; None where it does not."""
    return next((way for way in WAYS[kind] if way.fits(logger)), None)


def hand_over(logger: Any, kind: Kind, name: str, content: Callable[[], Any], step: int) -> Path | bool:
    """Hand something to a logger, or write it into the folder of its run.

    Args:
        kind: of the content: Markdown text, a ``Table``, a matplotlib figure, or a list of floats.
        name: with ``/`` between its parts, like a log key.
        content: makes it; not called where nobody takes it.

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
    """Return the folder of a logger's run, None where it has none on this machine."""
    for name in ("log_dir", "save_dir"):
        found = getattr(logger, name, None)
        if isinstance(found, (str, Path)):
            return Path(found)
    return None


def _keep(folder: Path, kind: Kind, name: str, content: Any, step: int) -> None:
    # Keys may hold what file names must not (``:`` on Windows), and a part of dots alone would lead out of the folder.
    safe = "/".join(re.sub(r"[^\w. -]", "_", part).strip(". ") or "_" for part in name.split("/"))
    path = folder / file_name(safe, step, _ENDINGS[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "figure":
        path.write_bytes(png(content))
    else:
        path.write_text(content.csv() if kind == "table" else content + "\n", encoding="utf-8")


def is_of_another_rank(logger: Any) -> bool:
    """Whether a logger belongs to a process that does not log: Lightning's stand-in there has every method."""
    # By its name: the class is private, and there is one in each of Lightning's two namespaces.
    return type(offered(logger, "experiment")).__name__ == "_DummyExperiment"
