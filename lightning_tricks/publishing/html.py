"""Small pieces of HTML for notebooks: tables, notes and pictures. All strings are escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

_LEFT = "text-align:left;vertical-align:top"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], colors: Mapping[str, str] | None = None) -> str:
    """Return a table.

    Args:
        colors: text of a cell -> colour, for words such as ``FAIL``.
    """

    def cell(text: str) -> str:
        color = (colors or {}).get(text)
        style = _LEFT + (f";color:{color};font-weight:bold" if color else "")
        return f'<td style="{style}">{escape(text)}</td>'

    titles = "".join(f'<th style="{_LEFT}">{escape(text)}</th>' for text in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def note(text: str, color: str = "#57606a") -> str:
    """Return a paragraph with a bar of a colour at its left."""
    return f'<p style="border-left:4px solid {color};padding-left:0.6em;margin:0.4em 0">{escape(text)}</p>'


def with_picture(text: str, draw: Callable[[], Any] | None) -> str:
    """Return a note with a picture below it; without the picture where matplotlib is missing."""
    try:
        figure = None if draw is None else draw()
    except ImportError:
        figure = None
    if figure is None:
        return note(text)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    image = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'{note(text)}<img alt="{escape(text)}" src="data:image/png;base64,{image}" style="max-width:100%">'
