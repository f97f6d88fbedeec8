"""`hitvideo runs`: which runs there are, how they differ, what happened to one. From their directories alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hitvideo.errors import ConfigError

if TYPE_CHECKING:
    from hitvideo.reports.comparison import Comparison
    from hitvideo.reports.overview import Overview

DEFAULT_ROOT = "runs"  # of run.root
_MOST_BESIDE = 4  # runs with a column each; of more, each is a row


def list_runs(words: argparse.Namespace) -> None:
    from hitvideo.reports.overview import find_runs
    from hitvideo.reports.tables import duration, render

    found = [_listed(run) for run in find_runs(words.root or [Path(DEFAULT_ROOT)])]
    if words.format == "json":
        print(json.dumps(found))
        return
    headings = ["run", "program", "state", "step", "of", "tokens", "loss", "validation", "tokens/s", "last sign", "error"]
    rows = []
    for row in found:
        validation = row["validation"] and f"{row['validation']:.4g}{' dB' if 'psnr' in row['validation_metric'] else ''}"
        figures = [row[key] for key in ("step", "steps", "tokens", "loss")]
        age = duration(row["seconds_since_a_sign"])
        rows.append([row["run"], row["program"], row["state"], *figures, validation, row["tokens_per_s"], age, row["error"]])
    if not any(row["error"] for row in found):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    print(render(words.format, headings, rows))


def _listed(run: Overview) -> dict[str, Any]:
    """A run's line; what is damaged about it is in `error`."""
    line: dict[str, Any] = {"run": run.name, "path": str(run.directory.path)}
    keys = ("program", "state", "step", "steps", "tokens", "loss", "validation_metric", "validation", "tokens_per_s")
    line |= {**dict.fromkeys(keys), "seconds_since_a_sign": run.seconds_since_a_sign(time.time()), "error": None}
    try:
        rows = run.last_rows
        names = sorted({name for row in rows for name in row if name.startswith("validation_psnr_first_")})
        deepest = names[-1] if names else None
        metric = "validation_loss" if any("validation_loss" in row for row in rows) else deepest
        line |= {"program": run.program, "state": run.state(), "step": run.step, "steps": run.steps}
        line |= {"tokens": run.tokens(run.step) if run.step is not None else None, "validation_metric": metric}
        for key, name in (("loss", "loss"), ("validation", metric), ("tokens_per_s", "tokens_per_s")):
            line[key] = next((row[name] for row in reversed(rows) if row.get(name) is not None), None)
    except (ConfigError, OSError) as error:
        line["error"] = str(error)
    return line


def compare_runs(words: argparse.Namespace) -> None:
    from hitvideo.reports.columns import Column, Condition, check_known
    from hitvideo.reports.comparison import compare
    from hitvideo.reports.overview import find_runs

    runs = find_runs(words.run or [Path(DEFAULT_ROOT)])
    columns = [Column.parse(text) for part in words.columns for text in part.split(",") if text.strip()]
    where = [Condition.parse(text) for text in words.where]
    sort = Column.parse(words.sort.removeprefix("-")) if words.sort else None
    if words.top is not None and words.top < 1:
        raise ConfigError(f"--top {words.top}: give at least 1")
    check_known([*columns, *(condition.column for condition in where), *([sort] if sort else [])], runs)
    descending = bool(words.sort) and words.sort.startswith("-")
    found = compare(runs, columns, where, sort, descending, words.top)
    if words.format == "json":
        print(json.dumps(_as_json(found)))
        return
    print(_as_table(found, words.format))
    for warning in found.warnings:
        print(f"warning: {warning.text}", file=sys.stderr)


def _as_json(found: Comparison) -> dict[str, Any]:
    rows = []
    for number, run in enumerate(found.runs):
        settings = {key: values[number] for key, values in found.settings.items()}
        metrics = {name: values[number]._asdict() for name, values in found.metrics.items()}
        place = {"run": run.name, "path": str(run.directory.path), "state": run.state()}
        rows.append({**place, "settings": settings, "metrics": metrics})
    return {"runs": rows, "warnings": [warning._asdict() for warning in found.warnings]}


def _as_table(found: Comparison, kind: str) -> str:
    """Settings, then metrics: a column for each of up to four runs, else a row. A value of an earlier row says its step."""
    from hitvideo.reports.tables import render, text

    lines: dict[str, list[Any]] = dict(found.settings)
    for name, values in found.metrics.items():
        lines[name] = [value.value for value in values]
        for number, (run, value) in enumerate(zip(found.runs, values, strict=True)):
            if kind != "csv" and value.step is not None and value.step != run.step:
                lines[name][number] = f"{text(value.value)} (step {value.step:,})"
    names = [run.name for run in found.runs]
    if len(names) <= _MOST_BESIDE and kind != "csv":
        return render(kind, ["", *names], [[key, *values] for key, values in lines.items()])
    return render(kind, ["run", *lines], [[name, *row] for name, *row in zip(names, *lines.values(), strict=True)])


def show_run(words: argparse.Namespace) -> None:
    from hitvideo.reports.overview import Overview
    from hitvideo.reports.story import story, told
    from hitvideo.runs.directory import RunDirectory

    found = story(Overview(RunDirectory.open(words.run)))
    print(json.dumps(found) if words.format == "json" else told(found, words.format))
