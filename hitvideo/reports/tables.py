"""Rows as a table for a terminal, as Markdown or as CSV. What runs bring along is made printable first."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Sequence
from typing import Any

from hitvideo.data.names import printable

FORMATS = ("table", "md", "csv", "json")
MISSING = "–"
_WIDEST = 44  # characters of a cell in a terminal


def render(kind: str, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under headings, as one of FORMATS but json. CSV has every digit, the others are rounded for people."""
    if kind == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([headings, *([_exact(cell) for cell in row] for row in rows)])
        return out.getvalue().rstrip("\n")
    texts = [[text(cell) for cell in row] for row in (headings, *rows)]
    if kind == "md":
        texts = [[cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in texts]
        return "\n".join(f"| {' | '.join(row)} |" for row in (texts[0], ["---"] * len(headings), *texts[1:]))
    texts = [[cell if len(cell) <= _WIDEST else f"{cell[: _WIDEST - 1]}…" for cell in row] for row in texts]
    widths = [max(_width(row[column]) for row in texts) for column in range(len(headings))]
    numeric = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(headings))]
    lines = []
    for row in texts:
        padded = [_pad(*each) for each in zip(row, widths, numeric, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def text(value: Any) -> str:
    """A value for people: four digits of a number, – for a missing one."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 1e7 else f"{value:.4g}"
    return printable(str(value))


def duration(seconds: float | None) -> str | None:
    """A time span by its largest unit: 90 is 1m, 7200 is 2h."""
    if seconds is None:
        return None
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _exact(value: Any) -> str:
    return "" if value is None else printable(value) if isinstance(value, str) else str(value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _width(cell: str) -> int:
    """Columns of a terminal: East Asian letters take two, and combining marks none."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in cell)
    return len(cell) + wide - sum(unicodedata.combining(sign) > 0 for sign in cell)


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space
