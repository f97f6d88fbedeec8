"""Sites that differ from the usual: jobs finish there, too, and the first job of a new site prints its verdict."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hitvideo.cluster.script import script
from hitvideo.runs.directory import read_metrics
from tests.conftest import ROOT
from tests.samples import make_token_shards
from tests.slurm.cluster import RENAMED, Cluster, logs_on_failure, until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(600)]
LOGS = ROOT / "slurm/logs"
TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
SLOW_ONCE = '''#!/bin/bash
# The first pre-flight does not end in time.
[[ "$*" == *cluster.preflight* ]] && mkdir "{mark}" 2>/dev/null && exec sleep 1000
exec "$@"
'''


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def words_of(tmp_path: Path, name: str, steps: int) -> list[str]:
    manifest = tmp_path / "shards/manifest.json"
    manifest = manifest if manifest.is_file() else make_token_shards(tmp_path / "shards")
    return [
        f"data.manifest={manifest}", f"run.root={tmp_path}", f"run.name={name}", f"train.steps={steps}", "train.warmup_steps=1",
        "train.global_batch=8", "train.micro_batch=4", "train.log_every=1", "train.validation_batches=0", "checkpoint.every=2",
        "data.validation_samples=8", "data.read_together=8", "text.vocab_size=512", "tracking.enabled=false",
        "llm={layers: 1, width: 32, heads: 4, kv_heads: 4, hidden: 64, rope_axes: [2, 2, 4]}",
    ]  # fmt: skip


def test_another_name_and_gres_an_empty_environment_and_a_slow_start(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three jobs: GPUs by --gres only, on a node whose name is no host's; --export=NONE; a pre-flight that is late once."""
    gres = tmp_path / "gres.sh"
    gres.write_text(script(TINY, [*words_of(tmp_path, "gres", 2), "cluster.slurm.gpu_option=gres"], 1))
    slow = tmp_path / "slow_once"
    slow.write_text(SLOW_ONCE.format(mark=tmp_path / "mark"))
    slow.chmod(0o755)
    usual = ["--nodes=1", "--cpus-per-task=2", "--time=30", "--gpus-per-node=1", "slurm/pretrain.sh", str(TINY)]
    with logs_on_failure(LOGS):
        jobs = {
            "gres": cluster.submit("--partition=renamed", str(gres), cwd=ROOT),
            "empty": cluster.submit("--export=NONE", *usual, *words_of(tmp_path, "empty", 2), cwd=ROOT),
        }
        monkeypatch.setenv("LAUNCH_PREFIX", str(slow))
        monkeypatch.setenv("PREFLIGHT_SECONDS", "20")
        jobs["slow"] = cluster.submit(*usual, *words_of(tmp_path, "slow", 2), cwd=ROOT)
        for name, job in jobs.items():
            done = cluster.wait(job, "COMPLETED")
            assert (tmp_path / name / "DONE").read_text() == "2\n"
            assert (done["JobName"], done["Restarts"], done["ExcNodeList"]) == (name, "0", "(null)")
    assert (tmp_path / "mark").is_dir(), "it was late once"
    assert (tmp_path / "gres/attempts" / f"{jobs['gres']}.0" / f"{RENAMED}.json").is_file()


@pytest.fixture(scope="module")
def smoke_job(cluster: Cluster) -> str:
    return cluster.submit("--gpus-per-node=1", "--cpus-per-task=2", "slurm/smoke.sh", "cluster.devices=cpu", cwd=ROOT)


@pytest.mark.usefixtures("smoke_job")  # which takes a minute, and may run meanwhile
def test_a_site_that_requeues_no_jobs(cluster: Cluster, tmp_path: Path) -> None:
    """The job submits itself again with its own options; one that waits for it waits for the next."""
    words = words_of(tmp_path, "chain", 200)
    run = tmp_path / "chain"
    with logs_on_failure(LOGS):
        job = cluster.submit("--no-requeue", "--nodes=1", "--gpus-per-node=1", "--cpus-per-task=2", "--time=31", "--exclude=n1",
                             "slurm/pretrain.sh", str(TINY), *words, cwd=ROOT)  # fmt: skip
        waits = cluster.submit(f"--dependency=afterok:{job}", "--wrap=true", "--output=/dev/null", cwd=ROOT)
        until(lambda: (run / "metrics.jsonl").is_file() and len(read_metrics(run / "metrics.jsonl")) > 2, "training")
        cluster.run("scancel", "--signal=USR1", "--batch", job)
        cluster.wait(job, "COMPLETED")
        found = re.search(r"goes on as job (\d+)", (LOGS / f"pretrain-{job}.out").read_text())
        assert found
        following = cluster.job(found[1])
        assert cluster.job(waits)["Dependency"].startswith(f"afterok:{found[1]}")
        assert cluster.wait(found[1], "COMPLETED")["TresPerNode"] == "gres:gpu:1"
    assert (following["TimeLimit"], following["ExcNodeList"], following["CPUs/Task"]) == ("00:31:00", "n1", "2")
    assert (run / "DONE").read_text() == "200\n"
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == list(range(1, 201))


def test_the_smoke_script(cluster: Cluster, smoke_job: str) -> None:
    with logs_on_failure(LOGS):
        cluster.wait(smoke_job, "COMPLETED")
        assert (LOGS / f"smoke-{smoke_job}.out").read_text().splitlines()[-1] == "smoke: PASSED"
