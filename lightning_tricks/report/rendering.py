"""Blocks as one page of HTML that needs nothing else, and as Markdown."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from lightning_tricks.publishing.statement import Outcome
from lightning_tricks.report.blocks import Block, Bullets, Conclusion, Heading, Paragraph, Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h1 { font-size: 1.5rem; }
h2 { margin-top: 2.25rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem; }
.verdict { border-left: .5rem solid; border-radius: .25rem; padding: .75rem 1rem; background: #f6f8fa; }
.verdict strong { display: block; font-size: 1.25rem; } .verdict span { color: #222; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
td, th { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
td { border-top: 1px solid #eee; } td:first-child { overflow-wrap: anywhere; min-width: 6rem; }
td:nth-child(2):last-child { overflow-wrap: anywhere; }
figure { margin: 1.25rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .9rem; }
@media (max-width: 30rem) { body { font-size: 15px; padding: 0 .6rem; } td, th { padding-right: .5rem; } }
"""


def as_html(title: str, blocks: Sequence[Block], renew: int | None = None) -> str:
    """Return one page without scripts that needs no other file and no network; every text is escaped.

    Args:
        renew: seconds after which a browser loads the page again; None for never.

    >>> "&lt;b&gt;" in as_html("a run", [Paragraph("<b>")])
    True
    """
    parts = [_html(block) for block in blocks]
    # Names and texts from logs may come from anybody: nothing that they smuggle in can be loaded or run.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    again = f'<meta http-equiv="refresh" content="{renew}">' if renew else ""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">{again}'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _html(block: Block) -> str:
    if isinstance(block, Conclusion):
        color = Outcome(block.level).color
        title, text = html.escape(block.title), html.escape(block.text)
        return f'<p class="verdict" style="color: {color}"><strong>{title}</strong><span>{text}</span></p>'
    if isinstance(block, Heading):
        return f"<h2>{html.escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Table):
        header = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.header)
        rows = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
        head = f"<tr>{header}</tr>" if any(block.header) else ""
        return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'
    data = base64.b64encode(block.png).decode()
    caption = html.escape(block.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def as_markdown(title: str, blocks: Sequence[Block], path: Path) -> str:
    """Return Markdown; its pictures are written into a folder beside ``path``."""
    folder = path.parent / f"{path.stem}_files"
    parts = [f"# {_plain(title)}"]
    for i, block in enumerate(blocks):
        if isinstance(block, Conclusion):
            parts.append(f"**{_plain(block.title)}** {_plain(block.text)}")
        elif isinstance(block, Heading):
            parts.append(f"## {block.text}")
        elif isinstance(block, Paragraph):
            parts.append(_plain(block.text))
        elif isinstance(block, Bullets):
            parts.append("\n".join(f"- {_plain(item)}" for item in block.items))
        elif isinstance(block, Table):
            rows = [block.header, tuple("---" for _ in block.header), *block.rows]
            parts.append("\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows))
        else:
            folder.mkdir(exist_ok=True)
            name = f"{i}_{re.sub(r'[^A-Za-z0-9_-]', '_', block.name)[:60]}.png"  # a tag may hold anything
            (folder / name).write_bytes(block.png)
            parts.append(f"![{_plain(block.caption)}]({folder.name}/{name})\n\n{_plain(block.caption)}")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    # (a string may hold what Markdown takes for markup)
    return re.sub(r"([\\`*_<\[\]])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return text if text == "---" else _plain(text).replace("|", r"\|")
