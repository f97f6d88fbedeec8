"""The training scripts on a real cluster: they finish, and a run that was disturbed ends like one that was not."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hitvideo.runs.directory import read_metrics
from tests.conftest import ROOT
from tests.samples import make_token_shards
from tests.slurm.cluster import Cluster, logs_on_failure, until
from tests.worlds import run_ranks

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(900)]
LOGS = ROOT / "slurm/logs"

# The 7B run in everything but size: its hierarchy, widths and batch are the demo's.
SMALL = [
    "cluster={peak_tflops: 0.1, memory_gib: 8}", "video={frames: 8, height: 32, width: 32}",
    "hierarchy={levels: [{down: [8, 16, 16], num_bits: 9}, {down: [8, 8, 8], num_bits: 9}, {down: [4, 8, 8], num_bits: 9}]}",
    "llm={layers: 2, width: 32, heads: 4, kv_heads: 4, hidden: 64, rope_axes: [2, 2, 4]}", "text={vocab_size: 512, window: 16}",
    "train.dtype=fp32", "train.global_batch=8", "train.log_every=1", "train.warmup_steps=2", "train.validation_batches=0",
    "data.validation_samples=8", "data.read_together=8", "train.micro_batch=1", "train.compile=false",
]  # fmt: skip
SIZE = ["--gpus-per-node=2", "--cpus-per-task=2", "--time=30"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hitvideo.settings import programs

    hierarchy = programs.load_settings(ROOT / "yaml_configs/pretrain/7b.yaml", SMALL).hierarchy  # type: ignore[union-attr]
    return make_token_shards(tmp_path_factory.mktemp("tokens") / "shards", hierarchy=hierarchy)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def metrics_of(run: Path) -> list[tuple[float, float]]:
    return [(row["loss"], row["grad_norm"]) for row in read_metrics(run / "metrics.jsonl")]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights/model.safetensors")


def undisturbed(words: list[str], world: int) -> None:
    """The same layout without Slurm: ranks with the environment that torchrun gives them."""
    from pretrain.language_model import main

    assert run_ranks(main, world, ["yaml_configs/pretrain/7b.yaml", *words]) == [0] * world


def test_the_7b_script_itself(cluster: Cluster, manifest: Path, tmp_path: Path) -> None:
    """Two nodes × two ranks, TP 2 × ZeRO-3: it finishes, with the numbers of the same layout under torchrun."""
    words = [*SMALL, f"data.manifest={manifest}", f"run.root={tmp_path}", "parallel.tensor=2", "train.micro_batch=2",
             "train.steps=6", "checkpoint.every=3"]  # fmt: skip
    with logs_on_failure(LOGS):
        job = cluster.submit("--nodes=2", *SIZE, "slurm/pretrain_7b.sh", *words, "run.name=sbatch", cwd=ROOT)
        cluster.wait(job, "COMPLETED")
        assert (tmp_path / "sbatch/DONE").read_text() == "6\n"
        assert restarts(cluster, job) == 0
    undisturbed([*words, "run.name=plain", "cluster.nodes=2", "cluster.devices_per_node=2"], 4)
    assert metrics_of(tmp_path / "sbatch") == metrics_of(tmp_path / "plain")
    reports = list((tmp_path / "sbatch/attempts" / f"{job}.0").glob("n*.json"))
    assert len(reports) == 2, "every node was looked at before training"
    met = json.loads((tmp_path / "sbatch/meeting.json").read_text())
    assert [each["host"] for each in met["ranks"]] == ["n1", "n1", "n2", "n2"], "and all ranks met, timed"
    assert met["all_reduce_seconds"] > 0


def steps_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(read_metrics(path)) if path.is_file() else 0


def newest(run: Path) -> str:
    return max((path.parent.name for path in run.glob("checkpoints/step-*/state.json")), default="")


def restarts(cluster: Cluster, job: str) -> int:
    return int(cluster.job(job).get("Restarts", "-1"))


def set_limit(cluster: Cluster, job: str, minutes: int) -> None:
    """A job that is just being requeued may refuse it for a moment."""
    words = ["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"]
    until(lambda: cluster.run(*words, check=False).returncode == 0, f"a time limit of {minutes} minutes")


def test_a_run_that_is_stopped_killed_and_loses_a_node(cluster: Cluster, manifest: Path, tmp_path: Path) -> None:
    """USR1 before the time limit, then a rank killed, then a node powered off: it ends with the weights of a quiet run."""
    if not cluster.namespaces:
        pytest.skip("a node is powered off, which needs namespaces of its own (root)")
    steps = 300
    words = [*SMALL, f"data.manifest={manifest}", f"run.root={tmp_path}", "train.micro_batch=4", f"train.steps={steps}",
             "checkpoint.every=20", "checkpoint.keep_last=2", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]  # fmt: skip
    run = tmp_path / "chaos"
    with logs_on_failure(LOGS):
        job = cluster.submit("--nodes=2", "--gpus-per-node=1", "--cpus-per-task=2", "--time=30", "slurm/pretrain_7b.sh", *words,
                             "run.name=chaos", cwd=ROOT)  # fmt: skip
        until(lambda: steps_of(run) > 25 and (run / "mlflow_run_id").is_file(), "training under way, and tracked")
        mlflow_run = (run / "mlflow_run_id").read_text()
        # Slurm looks at time limits every 30 s, in which a fast machine would finish: the ranks wait for its signal.
        ranks = [pid for node in ("n1", "n2") for pid in cluster.ranks(node, "pretrain").values()]
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        set_limit(cluster, job, minutes=10)  # within the 600 s of --signal=B:USR1@600
        until((run / "STOP").is_file, "told by Slurm that its time ends")
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)
        until(lambda: restarts(cluster, job) == 1, "stopped and requeued")
        set_limit(cluster, job, minutes=30)

        stopped_at = newest(run)
        until(lambda: newest(run) > stopped_at, "resumed after USR1, and a checkpoint written")
        killed_at = time.monotonic()
        os.kill(cluster.ranks("n2", "pretrain")[1], signal.SIGKILL)
        until(lambda: restarts(cluster, job) == 2, "requeued after a rank was killed")
        took = time.monotonic() - killed_at
        assert took < 20, f"a dead rank ends the job in seconds, not in {took:.0f}"

        killed_after = newest(run)
        until(lambda: newest(run) > killed_after, "resumed after the kill, and a checkpoint written")
        cluster.power_off("n2")
        until(lambda: restarts(cluster, job) == 3, "requeued after the node was lost")
        done = cluster.wait(job, "COMPLETED")
        assert "n2" not in done["NodeList"], "it went on on a spare node"
        assert not cluster.job(str(int(job) + 1)), "Slurm requeued it, so it did not submit itself again"
        assert (run / "mlflow_run_id").read_text() == mlflow_run
    cluster.power_on("n2")
    undisturbed([*words, "run.name=quiet", "cluster.nodes=2"], 2)
    ours, quiet = weights_of(run), weights_of(tmp_path / "quiet")
    assert all(torch.equal(ours[name], quiet[name]) for name in quiet)
    assert metrics_of(run) == metrics_of(tmp_path / "quiet")
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == list(range(1, steps + 1))


def test_a_node_that_was_cut_off_writes_nothing_more(cluster: Cluster, manifest: Path, tmp_path: Path) -> None:
    """Its rank needs nobody, so it goes on training while the job starts again elsewhere; the run is no longer its own."""
    if not cluster.namespaces:
        pytest.skip("a node is cut off, which needs namespaces of its own (root)")
    words = [*SMALL, f"data.manifest={manifest}", f"run.root={tmp_path}", "train.micro_batch=8", "train.steps=1500",
             "checkpoint.every=50", "checkpoint.keep_last=2", "tracking.enabled=false"]  # fmt: skip
    run = tmp_path / "cut"
    with logs_on_failure(LOGS):
        job = cluster.submit("--nodes=1", "--gpus-per-node=1", "--cpus-per-task=2", "--time=30", "slurm/pretrain_7b.sh", *words,
                             "run.name=cut", cwd=ROOT)  # fmt: skip
        until(lambda: steps_of(run) > 60, "training under way")
        node = cluster.job(job)["NodeList"]
        (late,) = cluster.ranks(node, "pretrain").values()
        cluster.cut_off(node)
        before = steps_of(run)
        until(lambda: steps_of(run) > before, "the cut-off rank goes on writing, as long as the run is its own")
        until(lambda: restarts(cluster, job) == 1, "requeued without the node")
        until(lambda: not Path(f"/proc/{late}").exists(), "the late writer has stopped")
        assert "belongs to attempt" in (run / "attempts" / f"{job}.0" / "fault-00000.json").read_text()
        cluster.wait(job, "COMPLETED")
    cluster.reconnect(node)
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 1501)), "no line of the late writer's is among them"
    undisturbed([*words, "run.name=quiet"], 1)
    ours, quiet = weights_of(run), weights_of(tmp_path / "quiet")
    assert all(torch.equal(ours[name], quiet[name]) for name in quiet)


def test_a_broken_node_is_excluded_and_named(
    cluster: Cluster, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shared memory is gone: the job is requeued without it, or with a spare node goes on at once on the others."""
    if not cluster.namespaces:
        pytest.skip("a node is broken, which needs namespaces of its own (root)")
    words = [*SMALL, f"data.manifest={manifest}", f"run.root={tmp_path}", "train.micro_batch=8", "train.steps=2",
             "tracking.enabled=false"]  # fmt: skip
    # Else the job begins on another node: one that was cut off comes back when it has reported.
    until(lambda: re.search(r"State=IDLE\s", cluster.run("scontrol", "show", "node", "-o", "n1").stdout), "n1 is free again")
    with cluster.without_shared_memory("n1"), logs_on_failure(LOGS):
        size = ["--gpus-per-node=1", "--cpus-per-task=2", "--time=30", "slurm/pretrain_7b.sh", *words]
        job = cluster.submit("--nodes=1", *size, "run.name=requeued", cwd=ROOT)
        done = cluster.wait(job, "COMPLETED")
        monkeypatch.setenv("SPARES", "1")
        spared = cluster.wait(cluster.submit("--nodes=2", *size, "run.name=spared", cwd=ROOT), "COMPLETED")
    assert done["ExcNodeList"] == "n1"
    assert done["NodeList"] != "n1"
    assert (spared["Restarts"], spared["NodeList"]) == ("0", "n[1-2]")
    assert f"attempt {job}.0: n1 is unfit: shared memory: " in (LOGS / f"pretrain-7b-{job}.out").read_text()


RAISES_ONCE = """
import os
if os.environ.get("RANK") == "1":
    from pathlib import Path
    from pretrain.language_model_task import LanguageModelTask
    set_lr = LanguageModelTask.set_lr
    def raises(task, step):
        if step == 3 and not (task.directory.path / "raised").exists():
            (task.directory.path / "raised").touch()
            raise ZeroDivisionError("made by a test")
        return set_lr(task, step)
    LanguageModelTask.set_lr = raises
"""


def test_a_rank_that_raises_while_others_wait(
    cluster: Cluster, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank waits in the step's collective. The job's own log has the right rank and its traceback in seconds."""
    (tmp_path / "sitecustomize.py").write_text(RAISES_ONCE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    words = [*SMALL, f"data.manifest={manifest}", f"run.root={tmp_path}", "run.name=raises", "train.micro_batch=4",
             "train.steps=6", "checkpoint.every=3", "tracking.enabled=false"]  # fmt: skip
    run = tmp_path / "raises"
    with logs_on_failure(LOGS):
        size = ["--nodes=2", "--gpus-per-node=1", "--cpus-per-task=2", "--time=30"]
        job = cluster.submit(*size, "slurm/pretrain_7b.sh", *words, cwd=ROOT)
        fault = run / "attempts" / f"{job}.0" / "fault-00001.json"
        until(fault.is_file, "the rank that raised has written why")
        until(lambda: restarts(cluster, job) == 1, "requeued")
        took = time.time() - fault.stat().st_mtime
        assert took < 15, f"the others waited {took:.0f} s"
        cluster.wait(job, "COMPLETED")
    said = (LOGS / f"pretrain-7b-{job}.out").read_text()
    assert "the first fault of all ranks: rank 1" in said
    assert "ZeroDivisionError: made by a test" in said
    assert "sitecustomize.py" in said, "the traceback's own lines"
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == list(range(1, 7))
