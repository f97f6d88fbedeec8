"""What a table of runs may show, filter by and sort by: facts, settings and metrics, named as on the command line.

    step, tokens, tokens_per_step, state, program, name      facts
    train.lr                                                 a setting, by its dotted key
    loss                                                     a metric: its last value
    min:loss   max:loss   mean100:loss                       over the run; over its last 100 values
    loss@step=5000   min:loss@tokens=2e10                    as it was then: with rows up to there, if the run got so far
"""

from __future__ import annotations

import difflib
import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hitvideo.errors import ConfigError, short
from hitvideo.reports.overview import STAMPS, Overview

FACTS: dict[str, Callable[[Overview], Any]] = {
    "name": lambda run: run.name,
    "program": lambda run: run.program,
    "state": lambda run: run.state(),
    "step": lambda run: run.step,
    "tokens": lambda run: run.tokens(run.step) if run.step is not None else None,
    "tokens_per_step": lambda run: run.tokens_per_step,
}
_COLUMN = re.compile(r"(?:(min|max|mean(\d{1,9})):)?([^@:]+)(?:@(step|tokens)=([^@]+))?")
_CONDITION = re.compile(r"(.*?[^<>=!])(!=|<=|>=|=|<|>)(.*)")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Found(NamedTuple):
    """A value, and the step of the row it is from; a setting's or a fact's has none."""

    value: Any
    step: int | None = None


@dataclass(frozen=True)
class Column:
    """A column's name, taken apart."""

    text: str
    name: str
    over: str | None = None
    """min, max or mean."""
    count: int | None = None
    """Of the values in a mean."""
    limit: float | None = None
    """Rows up to this step, or these tokens."""
    in_tokens: bool = False

    @classmethod
    def parse(cls, text: str) -> Column:
        """Raises ConfigError."""
        found = _COLUMN.fullmatch(text.strip())
        limit = _number(found[5]) if found and found[5] else None
        if not found or (found[5] and limit is None) or found[2] == "0":
            raise ConfigError(f"{short(text)}: not a column; write loss, min:loss, mean100:loss, loss@step=5000 or a setting")
        over = "mean" if found[2] else found[1]
        return cls(text.strip(), found[3], over, int(found[2]) if found[2] else None, limit, found[4] == "tokens")

    def of(self, run: Overview) -> Found:
        """The column's value in a run; None if it has none."""
        if self.over is None and self.limit is None:
            if self.name in FACTS:
                return Found(FACTS[self.name](run))
            if self.name in run.settings:
                return Found(run.settings[self.name])
        rows, name = run.rows, metric_name(run, self.name)
        if self.limit is not None:
            places = [run.tokens(row["step"]) if self.in_tokens else row["step"] for row in rows]
            if not places or places[-1] is None or places[-1] < self.limit:
                return Found(None)  # it has not got there
            rows = [row for row, at in zip(rows, places, strict=True) if at is not None and at <= self.limit]
        values = [(row[name], row["step"]) for row in rows if row.get(name) is not None]
        if not values:
            return Found(None)
        if self.over == "mean":
            values = values[-(self.count or 0) :]
            return Found(sum(value for value, _ in values) / len(values), values[-1][1])
        known = [pair for pair in values if pair[0] == pair[0]] or values  # NaN is neither the least nor the greatest
        if self.over == "min":
            return Found(*min(known, key=lambda pair: pair[0]))
        return Found(*(max(known, key=lambda pair: pair[0]) if self.over else values[-1]))


def metric_name(run: Overview, name: str) -> str:
    """A metric as metrics.jsonl names it, also by the section that the tracker puts it into: validation/loss, train/loss."""
    if "/" not in name:
        return name
    section, _, rest = name.partition("/")
    known = {key for row in run.last_rows for key in row}
    return next((each for each in (name, f"{section}_{rest}", rest) if each in known), name)


def check_known(columns: Sequence[Column], runs: Sequence[Overview]) -> None:
    """Raise ConfigError for a column that no run has, with the nearest name."""
    for column in columns:
        if any(column.name in FACTS or column.name in run.settings for run in runs):
            continue
        metrics = {key for run in runs for row in run.rows for key in row}
        if not metrics.intersection(metric_name(run, column.name) for run in runs):
            known = [*FACTS, *(metrics - {*STAMPS}), *(key for run in runs for key in run.settings)]
            near = difflib.get_close_matches(column.name, known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{short(column.name)}: no run has such a metric or setting{hint}")


@dataclass(frozen=True)
class Condition:
    """`column<value`, as --where takes it."""

    column: Column
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises ConfigError."""
        # A column's own `@step=5000` holds an equals sign.
        limit = re.match(r"[^<>=!@]+@(?:step|tokens)=[^<>=!]+(?=!=|<=|>=|=|<|>)", text)
        head = limit[0] if limit else ""
        found = _CONDITION.fullmatch("x" + text[len(head) :] if head else text)
        if not found:
            raise ConfigError(f"{short(text)}: not a condition; write key=value, with = != < <= > or >=, in quotes")
        return cls(Column.parse(head or found[1]), found[2], found[3].strip())

    def holds(self, run: Overview) -> bool:
        """Numbers are compared as numbers; other texts with = and !=, where * and ? match any signs."""
        value, wanted = self.column.of(run).value, _number(self.value)
        if wanted is not None and isinstance(value, int | float) and not isinstance(value, bool):
            return _COMPARE[self.sign](value, wanted)
        if self.sign in ("=", "!="):
            return fnmatch.fnmatchcase(_plain(value), self.value) == (self.sign == "=")
        return False


def _plain(value: Any) -> str:
    """As YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
