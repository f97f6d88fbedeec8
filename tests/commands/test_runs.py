"""`hitvideo runs`: states, tokens, differences, columns and conditions, from directories alone and without heavy packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hitvideo import config
from hitvideo.files import replace_json
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.commands.conftest import Call
from tests.conftest import ROOT

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
TOKENS = 205 * 16  # of a step: 24 of text, 180 of the clip, EOV; 16 rows


def make_run(path: Path, *words: str, steps: int = 100, fingerprint: str = "a") -> Path:
    path.mkdir(parents=True)
    settings = load_settings_as(PretrainRun, TINY, [f"run.name={path.name}", f"run.root={path.parent}", *words])
    (path / "config.yaml").write_text(config.to_yaml(settings))
    rows = [{"step": n, "loss": 1000.0 / n, "tokens_per_s": 10.0} for n in range(10, steps + 1, 10)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    replace_json(path / "video_tokenizer.json", {"fingerprint": fingerprint, "weights": None})
    return path


def compared(call: Call, *words: str | Path) -> Any:
    code, out, err = call("runs", "compare", *words, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def test_each_state(call: Call, tmp_path: Path) -> None:
    old = time.time() - 3600
    for name in ("done", "failed", "running", "stale", "stopped", "cut", "job"):
        run = make_run(tmp_path / name)
        os.utime(run / "metrics.jsonl", (old, old))
        beat = run / "heartbeats/rank-00000.json"
        replace_json(beat, {"phase": "step"})
        if name in ("running", "stale", "failed"):
            (run / ".lock").touch()
        if name == "done":
            (run / "DONE").write_text("100\n")
        if name == "failed":
            (run / "heartbeats/FAULT-x").write_text("rank 0 on n1 failed")
        if name == "stale":
            os.utime(beat, (old, old))
        if name == "cut":
            (run / "attempts.jsonl").write_text('{"attempt": "1.0", "kind": "fault"}\n')
        if name == "job":
            events = {"event": "start", "attempt": 1}, {"event": "end", "status": "FINISHED", "attempt": 1}
            (run / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    code, out, _ = call("runs", "list", tmp_path, "--format", "json")
    assert code == 0
    assert {row["run"]: row["state"] for row in json.loads(out)} == {
        "job": "done", "done": "done",
        "failed": "failed", "running": "running", "stale": "stale", "stopped": "stopped", "cut": "failed",
    }  # fmt: skip


def test_tokens_follow_the_batch(call: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train.global_batch=32")
    change = {"key": "train.global_batch", "old": 16, "new": 32, "step": 40, "time": 1}
    (run / "changes.jsonl").write_text(json.dumps(change) + "\n")
    code, out, _ = call("runs", "list", tmp_path, "--format", "json")
    (row,) = json.loads(out)
    assert (code, row["tokens"]) == (0, 40 * TOKENS + 60 * 2 * TOKENS)
    found = compared(call, tmp_path, "--columns", f"loss@tokens={40 * TOKENS + 25 * 2 * TOKENS}")
    assert found["runs"][0]["metrics"].popitem()[1] == {"value": 1000 / 60, "step": 60}
    assert "changed on the way" in [warning["what"] for warning in found["warnings"]]


def test_only_differences_and_every_kind_of_column(call: Call, tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", "train.lr=1e-4", "llm.layers=2", steps=50)
    columns = "loss,max:loss,min:loss@step=45,mean3:loss,loss@step=60,loss@tokens=1e5,train.lr,step"
    found = compared(call, a, b, "--columns", columns)
    assert found["runs"][1]["settings"] == {"train.lr": 1e-4, "llm.layers": 2}
    assert found["warnings"] == []
    one, two = ({name: each["value"] for name, each in run["metrics"].items()} for run in found["runs"])
    assert one["loss"] == 10
    assert two == {
        "loss": 20, "max:loss": 100, "min:loss@step=45": 25, "mean3:loss": pytest.approx(1000 * (1 / 30 + 1 / 40 + 1 / 50) / 3),
        "loss@step=60": None, "loss@tokens=1e5": pytest.approx(1000 / 30), "train.lr": 1e-4, "step": 50,
    }  # fmt: skip
    for kind in ("table", "md", "csv"):
        code, out, _ = call("runs", "compare", a, b, "--columns", "loss@step=45", "--format", kind)
        assert code == 0
        assert "train.lr" in out
        assert "train.steps" not in out
        assert ("(step 40)" in out) == (kind != "csv")


def test_where_sort_and_top(call: Call, tmp_path: Path) -> None:
    for number in range(5):
        make_run(tmp_path / f"r{number}", f"train.lr={number + 1}e-4", steps=10 * (number + 1))

    def names(*words: str) -> list[str]:
        return [run["run"] for run in compared(call, tmp_path, *words)["runs"]]

    assert names("--where", "train.lr>1.5e-4", "loss<=50") == ["r1", "r2", "r3", "r4"]
    assert names("--where", "run.name=r[01]") == ["r0", "r1"]
    assert names("--where", "loss@step=20!=50") == ["r0"]
    assert names("--sort", "loss", "--top", "2") == ["r4", "r3"]
    assert names("--sort=-loss", "--top", "1") == ["r0"]


@pytest.mark.parametrize(
    ("words", "named"), [(("--where", "train.rl=1"), "train.lr"), (("--columns", "los"), "loss"), (("--columns", "x@y"), "x@y")]
)
def test_wrong_names_are_refused(call: Call, tmp_path: Path, words: tuple[str, str], named: str) -> None:
    make_run(tmp_path / "a")
    code, out, err = call("runs", "compare", tmp_path, *words)
    assert (code, out) == (2, "")
    assert named in err


def test_what_makes_losses_not_comparable(call: Call, tmp_path: Path) -> None:
    a = make_run(tmp_path / "a")
    others = {
        "tokenizer": make_run(tmp_path / "b", fingerprint="b"),
        "validation set": make_run(tmp_path / "c", "data.validation_samples=7"),
        "tokens per step": make_run(tmp_path / "d", "train.global_batch=32"),
        "loss weights": make_run(tmp_path / "e", "train.level_balance=0.1"),
    }
    for what, run in others.items():
        assert [warning["what"] for warning in compared(call, a, run)["warnings"]] == [what]
        assert "warning" in call("runs", "compare", a, run)[2]


def test_undone_rows_and_the_end_of_a_long_file(call: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(101, 6001):
            file.write(json.dumps({"step": step, "loss": 1.0, "validation_loss": 2.0, "time": 1.0, "attempt": 1}) + "\n")
        file.write(json.dumps({"rollback_to": 3000, "time": 1.0, "attempt": 1}) + "\n")
    (row,) = json.loads(call("runs", "list", run, "--format", "json")[1])
    assert (row["step"], row["validation"]) == (3000, 2.0)


def test_hostile_runs_are_lines_of_their_own(call: Call, tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    for name, content in (("bomb", "a: &a [x]\nb: *a\n"), ("deep", "[" * 5000), ("list", "[1]"), ("odd\x1b[31m|", "\x00")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(content)
    code, out, _ = call("runs", "list", tmp_path, "--format", "json")
    assert code == 0
    assert [row["run"] for row in json.loads(out) if row["error"] is None] == ["good"]
    for kind in ("table", "md"):
        code, out, _ = call("runs", "list", tmp_path, "--format", kind)
        assert code == 0
        assert "\x1b" not in out


def test_show(call: Call, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    events = [{"event": "start", "attempt": 1, "time": 1.0}, {"event": "end", "attempt": 1, "time": 9.0, "status": "KILLED"}]
    (run / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    (run / "rollbacks.jsonl").write_text(json.dumps({"step": 20, "to": 10, "samples": 3, "data": "d", "time": 2.0}) + "\n")
    code, out, _ = call("runs", "show", run, "--format", "json")
    found = json.loads(out)
    assert (code, found["state"], found["step"]) == (0, "stopped", 100)
    assert found["attempts"] == [{"attempt": 1, "time": 1.0, "ended": 9.0, "status": "KILLED"}]
    assert [row["to"] for row in found["rollbacks"]] == [10]
    assert call("runs", "show", run)[0] == 0
    assert call("runs", "show", tmp_path)[0] == 2


def test_runs_and_every_help_load_no_heavy_package(tmp_path: Path) -> None:
    for number in range(3):
        make_run(tmp_path / f"r{number}", f"train.lr={number + 1}e-4")
    code = """
import argparse, contextlib, io, sys
from hitvideo.commands import cli
def words(p, before=()):
    yield before
    for action in p._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from words(sub, (*before, name))
calls = [[*each, "--help"] for each in words(cli.parser())]
calls += [["runs", "list", sys.argv[1]], ["runs", "compare", sys.argv[1]], ["runs", "show", sys.argv[1] + "/r0"]]
for each in calls:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main(each)
heavy = {"torch", "mlflow", "deepspeed", "megatron", "numpy", "av"} & sys.modules.keys()
print(len(calls), "hitvideo.reports.comparison" in sys.modules, *heavy)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    count, used, *heavy = done.stdout.split()
    assert int(count) > 20
    assert used == "True"
    assert heavy == []
