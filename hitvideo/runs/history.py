"""What a run's directory says happened, read without torch or MLflow: rows of metrics, starts, ends, returns to a checkpoint.

    metrics.jsonl        {"step": 12, "loss": …, "time": 1764180000.123, "attempt": 2}      a logged row
                         {"rollback_to": 8, "time": …, "attempt": 2}                        rows of later steps are undone
    metrics-00003.jsonl  the same of task 3, in a job of several tasks
    events.jsonl         {"event": "start", "attempt": 2, "time": …, "step": 8, …}          a start, and the facts it found
                         {"event": "end", "attempt": 2, "time": …, "status": "FINISHED"}    or FAILED, or KILLED: to be resumed

Both files are only ever appended to: a kill tears at most the last line, and readers pass over what they cannot read. A start
without an end was killed without a chance to say so. Rows of older runs have neither `time` nor `attempt`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)
METRICS, EVENTS = "metrics.jsonl", "events.jsonl"
ROLLBACK = "rollback_to"


class Line(NamedTuple):
    """An object of a file of JSON lines, and the byte behind its line."""

    content: dict[str, Any]
    end: int


def read_rows(directory: Path | str) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl that count, by step: `fold` of its lines. A run that logged nothing has none."""
    return fold(line.content for line in read_lines(Path(directory) / METRICS))


def fold(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without those that a later row undoes: by a return to an earlier step, or by the same step of a later attempt."""
    kept: dict[int, dict[str, Any]] = {}
    for row in rows:
        if ROLLBACK in row:
            kept = {step: old for step, old in kept.items() if step <= row[ROLLBACK]}
        else:
            kept.pop(row["step"], None)
            kept[row["step"]] = row
    return [kept[step] for step in sorted(kept)]


def read_events(directory: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's events.jsonl, oldest first; an older run has none."""
    return [line.content for line in _objects(Path(directory) / EVENTS, 0, _is_event)]


def attempts(directory: Path | str) -> list[dict[str, Any]]:
    """A run's starts with their facts, and with `ended` and `status`; one that was killed, or goes on, has neither."""
    starts: dict[int, dict[str, Any]] = {}
    for event in read_events(directory):
        number = event["attempt"]
        if event["event"] == "start":
            starts[number] = {key: value for key, value in event.items() if key != "event"}
        elif number in starts:
            end = {"ended": event.get("time"), "status": event.get("status")}
            starts[number] |= end if event["event"] == "end" else event.get("facts", {})
    return list(starts.values())


def rollbacks(directory: Path | str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that undo others: {"rollback_to", "time", "attempt"}."""
    return [line.content for line in read_lines(Path(directory) / METRICS) if ROLLBACK in line.content]


def read_lines(path: Path, start: int = 0) -> Iterator[Line]:
    """The rows of a file of metrics from a byte on, undone ones and returns included; what is damaged is left out."""
    return _objects(path, start, _is_row)


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line in one write, behind the end of the last one: a line torn by a kill costs its own row only."""
    with path.open("ab+") as file:
        whole = not file.tell() or (file.seek(-1, os.SEEK_END) >= 0 and file.read(1) == b"\n")
        file.write((b"" if whole else b"\n") + json.dumps(row).encode() + b"\n")


def stamped(row: dict[str, Any], attempt: int) -> dict[str, Any]:
    """A row with the present time, in seconds since 1970, and the number of the attempt that logs it."""
    return {**row, "time": round(time.time(), 3), "attempt": attempt}


def next_attempt(directory: Path) -> int:
    """The number of the start that comes after those in the directory; the first is 1."""
    rows = [line.content for line in read_lines(directory / METRICS)]
    numbers = [each["attempt"] for each in (*read_events(directory), *rows) if type(each.get("attempt")) is int]
    return 1 + max(numbers, default=int(bool(rows)))


def _objects(path: Path, start: int, fits: Callable[[dict[str, Any]], bool]) -> Iterator[Line]:
    """The JSON objects of a file's lines. The last one may lack its end: it is being written, or was cut by a kill."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(start)
        end, number = start, 0
        for line in file:
            end, number = end + len(line), number + 1
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict) and fits(content):
                yield Line(content, end)
            elif line.strip() and line.endswith(b"\n"):
                log.warning("%s: line %d%s is damaged and left out", path, number, f" from byte {start}" if start else "")


def _is_event(event: dict[str, Any]) -> bool:
    return isinstance(event.get("event"), str) and type(event.get("attempt")) is int


def _is_row(row: dict[str, Any]) -> bool:
    """Whether an object is a row of metrics: numbers only, with a whole step, or a return to one."""
    numbers = all(isinstance(value, int | float | None) for value in row.values())
    return numbers and (type(row.get("step")) is int or type(row.get(ROLLBACK)) is int)
