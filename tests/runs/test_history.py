"""Reading what happened from a run's directory: rows undone, torn lines, attempts."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hitvideo.runs import history
from hitvideo.runs.history import attempts, fold, next_attempt, read_rows, rollbacks
from hitvideo.runs.writer import RunWriter
from tests.conftest import ROOT
from tests.runs.helpers import settings


def write(path: Path, *rows: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def steps(rows: list[dict[str, float]]) -> list[tuple[int, float]]:
    return [(int(row["step"]), row["loss"]) for row in rows]


def test_a_rollback_undoes_later_rows_and_a_repeated_step_counts_once(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1.0} for step in (1, 2, 3, 4)]
    write(tmp_path / "metrics.jsonl", *rows, {"rollback_to": 2, "time": 5.0, "attempt": 1}, {"step": 3, "loss": 2.0})
    assert steps(read_rows(tmp_path)) == [(1, 1.0), (2, 1.0), (3, 2.0)]
    assert rollbacks(tmp_path) == [{"rollback_to": 2, "time": 5.0, "attempt": 1}]
    assert steps(fold([*rows, {"step": 2, "loss": 9.0}])) == [(1, 1.0), (2, 9.0), (3, 1.0), (4, 1.0)]
    assert read_rows(tmp_path / "absent") == []


def test_any_history_folds_as_rewriting_the_file_would(tmp_path: Path) -> None:
    """The oracle drops later rows at each return, as the file was rewritten before it was append-only."""
    draw = random.Random(0)
    for _ in range(200):
        written: list[dict[str, float]] = []
        expected: list[dict[str, float]] = []
        step = 0
        for number in range(30):
            if draw.random() < 0.2:
                step = draw.randint(0, step)
                written.append({"rollback_to": step})
                expected = [row for row in expected if row["step"] <= step]
            step += 1
            row = {"step": step, "loss": float(number)}
            written.append(row)
            expected.append(row)
        assert fold(written) == expected


def test_the_file_only_grows(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    contents = []
    for step in range(1, 6):
        run.append_metrics({"step": step, "loss": 1.0})
        contents.append(run.metrics_file.read_bytes())
    run.forget_metrics_after(3)
    contents.append(run.metrics_file.read_bytes())
    run.forget_metrics_after(3)  # nothing to undo
    assert run.metrics_file.read_bytes() == contents[-1]
    assert all(after.startswith(before) for before, after in itertools.pairwise(contents))
    assert [row["step"] for row in read_rows(run.path)] == [1, 2, 3]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_line_costs_its_row_and_no_other(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        history.append(path, {"step": step, "loss": 0.5})
    path.write_bytes(path.read_bytes()[:-cut])
    before = [row["step"] for row in read_rows(tmp_path)]
    history.append(path, {"step": 9, "loss": 0.25})
    assert [row["step"] for row in read_rows(tmp_path)] == [*before, 9]
    assert before == ([1, 2, 3] if cut == 1 else [1, 2] if cut <= 26 else [1])


def test_attempts_are_counted_and_those_without_an_end_are_told(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert next_attempt(tmp_path / "r") == 1
    write(tmp_path / "r/metrics.jsonl", {"step": 1, "loss": 1.0})
    assert next_attempt(tmp_path / "r") == 2, "after the rows of an older version, which have no number"
    first = RunWriter(settings(tmp_path), writer=True)
    first.append_event("facts", facts={"parameters": 5})
    second = RunWriter(settings(tmp_path), writer=True)
    second.append_event("end", status="FINISHED")
    assert [run.attempt for run in (first, second)] == [2, 3]
    one, two = attempts(tmp_path / "r")
    assert (one["attempt"], one["parameters"], "status" in one) == (2, 5, False)
    assert (two["attempt"], two["status"]) == (3, "FINISHED")
    assert two["ended"] >= two["time"]


def test_reading_needs_neither_torch_nor_mlflow() -> None:
    code = "import sys, hitvideo.runs.history; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "mlflow", "numpy", "pydantic"} & set(done.stdout.split())
