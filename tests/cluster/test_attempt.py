"""What follows an attempt of a job: by its faults, its progress, and whether it was asked to stop."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from hitvideo.cluster import attempt
from hitvideo.cluster.nodes import unfit
from hitvideo.errors import ConfigError
from hitvideo.runs import ownership
from hitvideo.runs.ownership import TakenOverError, refuse_if_taken_over
from hitvideo.runs.program import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, EXIT_USER
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT

TINY = str(ROOT / "yaml_configs/pretrain/tiny.yaml")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that attempt 7.0 has begun."""
    become(monkeypatch, "7.0")
    return attempt.begin([TINY, f"run.root={tmp_path}", "run.name=x"])


def become(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(ownership.ENVIRONMENT, name)
    monkeypatch.setenv("SLURM_RESTART_COUNT", name.partition(".")[2])


def checkpoint(run: Path, step: int) -> None:
    folder = run / f"checkpoints/step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")


def test_done_is_what_counts(run: Path) -> None:
    """srun's code says little: 143 for peers that were killed, 0 after a node failure."""
    (run / "DONE").write_text("6\n")
    assert attempt.end(run, 143, asked=False) == EXIT_DONE
    (run / "DONE").unlink()
    assert attempt.end(run, 0, asked=False) == EXIT_STOPPED


def test_a_run_that_is_extended_is_not_done(run: Path, tmp_path: Path) -> None:
    words = [TINY, f"run.root={tmp_path}", "run.name=x", "train.warmup_steps=0"]
    for steps, allowed, done in (("5", [], True), ("6", [], True), ("7", ["--allow-change", "train.lr"], False)):
        (run / "DONE").write_text("6\n")
        assert attempt.begin([*words, f"train.steps={steps}", *allowed]) == run
        assert (run / "DONE").exists() is done


def test_no_progress_twice_is_the_end(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(run, 10)
    assert attempt.end(run, 1, asked=False) == EXIT_STOPPED
    become(monkeypatch, "7.1")
    checkpoint(run, 20)
    assert attempt.end(run, 1, asked=False) == EXIT_STOPPED, "it went on from 10 to 20"
    become(monkeypatch, "7.2")
    assert attempt.end(run, 1, asked=False) == EXIT_FAULT
    assert "2 attempts without a new checkpoint (still step-00000020): not requeued" in capsys.readouterr().err


def test_a_stop_on_request_is_no_failure(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it comes before the first step every time: a time limit shorter than the lead of its signal."""
    assert attempt.end(run, 75, asked=True) == EXIT_STOPPED
    become(monkeypatch, "7.1")
    assert attempt.end(run, 75, asked=True) == EXIT_STOPPED
    become(monkeypatch, "7.2")
    assert attempt.end(run, 0, asked=True) == EXIT_FAULT
    assert "is --time longer than the lead of --signal" in capsys.readouterr().err


def test_restarts_are_bounded(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MOST_RESTARTS", "3")
    become(monkeypatch, "7.3")
    checkpoint(run, 30)
    assert attempt.end(run, 1, asked=False) == EXIT_FAULT
    assert "restarted 3 times (MOST_RESTARTS): not requeued" in capsys.readouterr().err


def fault(run: Path, monkeypatch: pytest.MonkeyPatch, rank: int, error: Exception) -> None:
    monkeypatch.setenv("HITVIDEO_FAULTS", str(run / "attempts/7.0"))
    monkeypatch.setenv("RANK", str(rank))
    try:
        raise error
    except Exception as raised:
        ownership.write_fault(raised)


def test_the_earliest_fault_is_named(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fault(run, monkeypatch, 3, ZeroDivisionError("the cause"))
    fault(run, monkeypatch, 0, RuntimeError("connection closed by peer"))
    assert attempt.end(run, 143, asked=False) == EXIT_STOPPED
    said = capsys.readouterr().err
    assert "the first fault of all ranks: rank 3" in said
    assert "ZeroDivisionError: the cause" in said
    assert "connection closed" not in said
    assert "test_attempt.py" in said, "the traceback's own lines are there"


def test_what_the_user_must_mend_is_not_requeued(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(run, monkeypatch, 0, ConfigError("data.manifest: no such file"))
    assert attempt.end(run, 1, asked=False) == EXIT_USER


def test_a_kill_from_outside_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt.end(run, 137, asked=False)
    said = capsys.readouterr().err
    assert "no rank left a traceback (code 137): killed from outside, out of memory, or its node is lost" in said


def test_the_next_attempt_takes_the_run_over(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_if_taken_over(run)
    become(monkeypatch, "7.1")
    attempt.begin([TINY, f"run.root={tmp_path}", "run.name=x"])
    refuse_if_taken_over(run)
    become(monkeypatch, "7.0")
    with pytest.raises(TakenOverError, match=r"attempt 7\.1.*attempt 7\.0"):
        refuse_if_taken_over(run)
    monkeypatch.delenv(ownership.ENVIRONMENT)
    refuse_if_taken_over(run)


def test_a_stop_asked_for_while_the_ranks_start_is_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's signal may come before the first rank has opened the run; the attempt's beginning removes an older request."""
    settings = load_settings_as(PretrainRun, TINY, [f"run.root={tmp_path}", "run.name=x"])
    (run / "STOP").touch()
    RunWriter(settings, writer=True)
    assert (run / "STOP").exists()
    attempt.begin([TINY, f"run.root={tmp_path}", "run.name=x"])
    assert not (run / "STOP").exists()
    (run / "STOP").touch()
    monkeypatch.delenv(ownership.ENVIRONMENT)
    RunWriter(settings, writer=True)
    assert not (run / "STOP").exists(), "outside Slurm the start itself removes it"


def test_a_layout_that_does_not_divide_is_refused_before_anything_starts(tmp_path: Path) -> None:
    words = [TINY, f"run.root={tmp_path}", "cluster.nodes=3", "cluster.devices_per_node=1"]
    with pytest.raises(ConfigError, match=r"3 ranks are not a multiple of parallel.tensor 2"):
        attempt.begin([*words, "parallel.tensor=2"])
    with pytest.raises(ConfigError, match=r"train.global_batch 16 is not a multiple of"):
        attempt.begin(words)
    assert not list(tmp_path.iterdir())


def report(folder: Path, host: str, torch: str = "2", faults: tuple[str, ...] = ()) -> None:
    (folder / f"{host}.json").write_text(json.dumps({"faults": faults, "versions": {"torch": torch}, "seconds": 1}))


def test_unfit_nodes(tmp_path: Path) -> None:
    report(tmp_path, "n1")
    report(tmp_path, "n2", faults=("device: RuntimeError: 7 of 8 GPUs are visible",))
    report(tmp_path, "n3", torch="1")
    report(tmp_path, "n4")
    bad = unfit(tmp_path, ["n1", "n2", "n3", "n4", "n5"])
    assert bad.keys() == {"n2", "n3", "n5"}
    assert bad["n2"] == "device: RuntimeError: 7 of 8 GPUs are visible"
    assert "has other packages than the 3 others" in bad["n3"]
    assert bad["n5"] == "its pre-flight did not report"


def test_the_command_prints_what_a_script_can_use(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(run / "attempts/7.0", "n1")
    assert attempt.main(["unfit", str(run / "attempts/7.0"), "n1", "n2", "n3"]) == 0
    assert capsys.readouterr().out == "n2,n3\n"
    assert attempt.main(["end", str(run), "1", "0"]) == EXIT_STOPPED
    assert attempt.main([]) == EXIT_USER


def test_attempts_without_enough_fit_nodes_are_counted(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        become(monkeypatch, f"7.{number}")
        assert attempt.main(["end", str(run), "unfit", "0"]) == EXIT_STOPPED
    become(monkeypatch, "7.3")
    assert attempt.end(run, 1, asked=False) == EXIT_STOPPED, "the first fault of the ranks"
    become(monkeypatch, "7.4")
    assert attempt.end(run, None, asked=False) == EXIT_FAULT
    assert "4 attempts without a new checkpoint" in capsys.readouterr().err
    kinds = [json.loads(line)["kind"] for line in (run / "attempts.jsonl").read_text().splitlines()]
    assert kinds == ["unfit", "unfit", "unfit", "fault", "unfit"]


def test_restarts_at_each_time_limit_are_not_bounded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOST_RESTARTS", "2")
    for number in range(6):
        become(monkeypatch, f"7.{number}")
        checkpoint(run, 10 * (number + 1))
        assert attempt.end(run, 75, asked=True) == EXIT_STOPPED
    for number in (6, 7):
        become(monkeypatch, f"7.{number}")
        checkpoint(run, 10 * (number + 1))
        assert attempt.end(run, 1, asked=False) == EXIT_STOPPED
    become(monkeypatch, "7.8")
    assert attempt.end(run, 1, asked=False) == EXIT_FAULT


def test_jobs_that_submit_each_other_are_one_chain(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(attempt.CHAIN, "7")
    assert attempt.end(run, 1, asked=False) == EXIT_STOPPED
    become(monkeypatch, "8.0")
    assert attempt.end(run, 1, asked=False) == EXIT_FAULT, "two faults without a checkpoint"
    monkeypatch.delenv(attempt.CHAIN)
    become(monkeypatch, "9.0")
    assert attempt.end(run, 1, asked=False) == EXIT_STOPPED, "a person submitted it again: a new chain"


@pytest.mark.parametrize(
    ("words", "chain", "devices"),
    [
        ([], "requeue", "cpu"),
        (["cluster.slurm.chain=resubmit", "cluster.peak_tflops=989"], "resubmit", "gpu"),
        (["cluster.devices=cpu", "cluster.peak_tflops=989"], "requeue", "cpu"),
        (["cluster.devices=gpu"], "requeue", "gpu"),
    ],
)
def test_the_script_and_the_pre_flight_learn_settings(run: Path, words: list[str], chain: str, devices: str) -> None:
    attempt.begin([TINY, f"run.root={run.parent}", "run.name=x", *words])
    folder = run / "attempts/7.0"
    assert ((folder / "chain").read_text(), (folder / "devices").read_text()) == (f"{chain}\n", f"{devices}\n")


def test_options_are_printed_a_line_each(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("JobId=3 NumNodes=2 TresPerNode=gres:gpu:4"))
    assert attempt.main(["options", "4", "n1"]) == 0
    assert "--gpus-per-node=4" in capsys.readouterr().out.splitlines()
