"""Tables of results: intervals of differences, sentences computed from them, and the markers of RESULTS.md."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from hitvideo.errors import ConfigError
from hitvideo.files import replace_file
from hitvideo.metrics.intervals import wilson

RESULTS = Path(__file__).with_name("RESULTS.md")
QUANTILE = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
)  # fmt: skip
"""Student's t below which 97.5 % lie, for 1, 2, … degrees of freedom."""


class Difference(NamedTuple):
    """A difference with its 95 % interval; infinite if it cannot be told."""

    middle: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether zero is outside the interval."""
        return self.low > 0 or self.high < 0


def paired(values: Sequence[float], others: Sequence[float]) -> Difference:
    """Mean of values - others, pair by pair (the same seed), with Student's t interval, which is infinite for one pair."""
    differences = [value - other for value, other in zip(values, others, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Difference(mean, -math.inf, math.inf)
    t = QUANTILE[min(len(differences) - 1, len(QUANTILE)) - 1]
    half = t * statistics.stdev(differences) / math.sqrt(len(differences))
    return Difference(mean, mean - half, mean + half)


def of_shares(right: int, of: int, other_right: int, other_of: int) -> Difference:
    """Difference of two counted shares, with Newcombe's interval, made of two of Wilson (Newcombe 1998, method 10)."""
    share, other = right / of, other_right / other_of
    (low, high), (other_low, other_high) = wilson(right, of), wilson(other_right, other_of)
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return Difference(share - other, share - other - below, share - other + above)


def verdict(what: str, one: str, other: str, difference: Difference, unit: str, scale: float = 1.0) -> str:
    """The sentence that a difference one - other allows: which is higher, or that it cannot be told."""
    middle, low, high = (scale * value for value in difference)
    if not math.isfinite(high):
        return f"{what}: {one} and {other} differ by {middle:+.2f} {unit} in one seed, which says nothing about another."
    interval = f"{middle:+.2f} {unit} (95 % interval {low:+.2f} to {high:+.2f})"
    if not difference.sure:
        return f"{what}: whether {one} or {other} is higher cannot be told: {interval}."
    return f"{what}: {one} is {'higher' if middle > 0 else 'lower'} than {other}: {interval}."


def mean_text(values: Sequence[float], digits: int = 2) -> str:
    """Mean of the seeds, and their spread: "26.10 ± 0.12"."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (head, ["---"] * len(head), *rows))


def provenance(command: str, seeds: int) -> str:
    """When, by which command, with which seeds and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("hitvideo", "torch", "deepspeed"))
    machine = f"Python {platform.python_version()}, {os.cpu_count()} CPU cores"
    return f"{date.today()} · `{command}` · seeds 0 to {seeds - 1} · {versions}, {machine}"


def write_tables(results: Path, tables: Mapping[str, str], about: str) -> None:
    """Replace what is between a table's markers; a table that has none is added at the end of the file.

    Raises ConfigError if a table has several.
    """
    text = results.read_text() if results.is_file() else ""
    for name, content in tables.items():
        found = re.findall(rf"<!-- experiment: {re.escape(name)} -->\n.*?<!-- end -->", text, re.DOTALL)
        if len(found) > 1:
            raise ConfigError(f"{results}: {len(found)} places are marked <!-- experiment: {name} -->; leave one")
        new = f"<!-- experiment: {name} -->\n{about}\n\n{content}\n<!-- end -->"
        text = text.replace(found[0], new) if found else f"{text}{new}\n"
    results.parent.mkdir(parents=True, exist_ok=True)
    replace_file(results, text.encode())

