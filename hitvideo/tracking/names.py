"""How the keys of metrics.jsonl are called in MLflow: `SECTION/NAME`, the same in every program.

MLflow's page makes one group of charts per section, so the sections are few: train, validation, level, speed, system.
"""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

from hitvideo.runs.history import ROLLBACK

_SPEED = {
    "tokens_per_s", "rows_per_s", "mfu", "data_wait_s", "frames_per_s", "decode_s", "wait_s", "encode_s", "commit_s",
    "clips", "rejected",
}  # fmt: skip
_SYSTEM = re.compile(r"(gpu|host)_.+|attempt|checkpoint_failed")
_VALIDATION = "validation_"
_NOT_METRICS = {"step", "time", ROLLBACK}
_LONGEST = 250  # MLflow's limit


class Point(NamedTuple):
    """A value of one metric. Equal points are one row in MLflow, however often they are sent."""

    name: str
    value: float
    stamp: int
    """Milliseconds since 1970."""
    step: int


def metric_name(key: str, prefix: str = "") -> str:
    """MLflow's name for a key of metrics.jsonl, of the characters that every MLflow server takes. `prefix`: of a task."""
    if key.startswith(_VALIDATION):
        name = f"validation/{key.removeprefix(_VALIDATION)}"
    elif key in _SPEED:
        name = f"speed/{key}"
    elif _SYSTEM.fullmatch(key):
        name = f"system/{key}"
    else:
        name = f"level/{key}" if re.search(r"(^|_)level_\d+", key) else f"train/{key}"
    plain = re.sub(r"[^\w .:/-]", "_", f"{prefix}{name}")
    return "/".join(part.strip(".") or "_" for part in plain.split("/"))[:_LONGEST]


def points(row: dict[str, Any], started: float, prefix: str = "") -> list[Point]:
    """The metrics of one row. `started`: seconds since 1970, for rows of older runs, which hold no time."""
    stamp, step = round(1000 * row.get("time", started)), row["step"]
    if "time" not in row:
        stamp += step
    values = {key: value for key, value in row.items() if key not in _NOT_METRICS and value is not None}
    return [Point(metric_name(key, prefix), _finite(value), stamp, step) for key, value in values.items()]


def _finite(value: float) -> float:
    """What MLflow keeps of a number: the infinities are its largest ones."""
    try:
        return min(max(float(value), -sys.float_info.max), sys.float_info.max) if value == value else float("nan")
    except OverflowError:
        return sys.float_info.max if value > 0 else -sys.float_info.max
