"""What a report consists of: values, which ``rendering`` writes down as HTML or Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "running", "unknown", "warning", "bad"]


@dataclass(frozen=True)
class Conclusion:
    """The first thing that is read: how it went, with a colour, and a sentence or two about it."""

    level: Level
    title: str
    text: str


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows."""

    name: str
    caption: str
    png: bytes


Block = Conclusion | Heading | Paragraph | Bullets | Table | Picture
