"""Pieces of Markdown that several pages are made of."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar in a cell is escaped, and a line's end becomes a space."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def code(text: object) -> str:
    """A word or a value as code; nothing for an empty one."""
    return f"`{text}`" if str(text) else ""


def block(text: str, language: str = "text") -> str:
    """Several lines as they are."""
    return f"```{language}\n{textwrap.dedent(text).strip()}\n```\n"


def prose(text: str | None) -> str:
    """A docstring: its paragraphs, and its indented parts as blocks."""
    parts = []
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        indented = all(line.startswith("    ") for line in paragraph.splitlines() if line)
        parts.append(block(paragraph) if indented and paragraph else paragraph + "\n")
    return "\n".join(parts)
