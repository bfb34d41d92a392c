"""A notebook of ``examples/notebooks`` as a page of the site: text, code, and the output that is committed with it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

_INLINE = re.compile(r'src="data:image/png;base64,([^"]+)"')
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by the names that the Markdown gives them.

    Pictures are files of their own, so that the Markdown of the page stays readable.

    Args:
        path: an executed notebook in format 4; its first line is the title.
    """
    pictures: dict[str, bytes] = {}

    def picture(encoded: str) -> str:
        name = f"{path.stem}_{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(encoded)
        return name

    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = _joined(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts.append(f"```py\n{source}\n```")
            parts += [_output(output, picture) for output in cell["outputs"]]
    title, *others = parts
    run = f"In a checkout it is `examples/notebooks/{path.name}`; `./dev notebooks {path.stem}` executes it again."
    return "\n\n".join([title, run, *filter(None, others)]) + "\n", pictures


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _output(output: dict[str, Any], picture: Any) -> str:
    """Return one output in the richest form that it has and a page can show."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the cell draws]({picture(_joined(data['image/png']))})"
    if "text/html" in data:
        html = _INLINE.sub(lambda found: f'src="{picture(found[1])}"', _joined(data["text/html"]))
        return f'<div class="output">{" ".join(html.split())}</div>'
    text = _ANSI.sub("", _joined(output.get("text", data.get("text/plain", "")))).strip("\n")
    return f"```text\n{text}\n```" if text.strip() else ""
