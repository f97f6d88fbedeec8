"""From video shards to a generated video by one command; and a wrong config, refused on the login node in seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hitvideo.config import to_yaml
from hitvideo.data.pack import write_moving_shapes
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.settings.programs import load_settings
from hitvideo.video.decode import decode_clip
from tests.conftest import ROOT
from tests.samples import tiny_hierarchy
from tests.slurm.cluster import Cluster, logs_on_failure, until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(900)]
LOGS = ROOT / "slurm/logs"
TOKENIZER = ["video_tokenizer.channels=[8,16,16]", "train.steps=4", "train.warmup_steps=1", "train.validation_batches=0",
             "data.validation_clips=4", "tracking.enabled=false"]  # fmt: skip
PRETRAIN = ["llm={layers: 1, width: 32, heads: 4, kv_heads: 4, hidden: 64, rope_axes: [2, 2, 4]}", "train.steps=4",
            "train.warmup_steps=1", "train.validation_batches=0", "data.validation_samples=4",
            "tracking.enabled=false"]  # fmt: skip


def small(path: Path, config: str, words: list[str]) -> str:
    path.write_text(to_yaml(load_settings(ROOT / "yaml_configs" / config, words)))
    return str(path)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TASKS", "2")
    monkeypatch.setenv("PROCESSES_PER_NODE", "1")  # an exclusive job gets all GPUs
    monkeypatch.setenv("SBATCH_OPTIONS", "--nodes=1 --gpus-per-node=0 --cpus-per-task=2 --time=30")
    write_moving_shapes(tmp_path / "shards", 32, seed=0, clip=tiny_hierarchy()[1], objects="1", per_shard=8)
    configs = [
        small(tmp_path / "tokenizer.yaml", "pretrain_tokenizer/tiny.yaml", TOKENIZER),
        small(tmp_path / "tokenize.yaml", "tokenize_shards/tiny.yaml", []),
        small(tmp_path / "pretrain.yaml", "pretrain/tiny.yaml", PRETRAIN),
    ]
    return [str(tmp_path / "work"), str(tmp_path / "shards"), "a red circle moves right on a black background", *configs]


def test_the_pipeline(cluster: Cluster, tmp_path: Path, arguments: list[str]) -> None:
    with logs_on_failure(LOGS):
        said = cluster.run("bash", "slurm/pipeline.sh", *arguments, cwd=ROOT).stdout
        jobs = [word.rstrip(":,") for word in said.split() if word.rstrip(":,").isdigit()]
        assert len(jobs) == 5
        assert [cluster.job(job)["Dependency"].split("(")[0] for job in jobs[3:]] == [f"afterok:{job}" for job in jobs[2:4]]
        for job in jobs[:1] + jobs[2:]:
            cluster.wait(job, "COMPLETED", timeout=400)
    video = (tmp_path / "work/video.mp4").read_bytes()
    clip = ClipShape(frames=8, height=32, width=32, fps=8)
    assert decode_clip(video, clip, LimitsSection()).shape == (8, 32, 32, 3)


def test_a_wrong_config_is_refused_before_anything_is_queued(cluster: Cluster, tmp_path: Path, arguments: list[str]) -> None:
    config = tmp_path / "pretrain.yaml"
    config.write_text(config.read_text().replace("steps:", "setps:", 1))
    done = cluster.run("bash", "slurm/pipeline.sh", *arguments, cwd=ROOT, check=False)
    assert done.returncode
    assert "unknown key 'train.setps'; did you mean 'train.steps'?" in done.stderr
    hitvideo = str(Path(sys.executable).with_name("hitvideo"))
    refused = cluster.run(hitvideo, "slurm", str(config), "--nodes", "1", "--submit", cwd=ROOT, check=False)
    assert refused.returncode == 2
    assert "did you mean 'train.steps'?" in refused.stderr
    assert not cluster.run("squeue", "-h").stdout.strip()


def test_hitvideo_slurm_submits(cluster: Cluster, tmp_path: Path, arguments: list[str]) -> None:
    """The printed script is a job that Slurm takes and that trains."""
    site = tmp_path / "site.yaml"
    site.write_text("cluster: {devices_per_node: 1, peak_tflops: 0.1, memory_gib: 8, slurm: {cpus_per_node: 2, time: '30'}}\n")
    words = [f"run.root={tmp_path}/work/runs", f"data.video_shards={arguments[1]}"]
    hitvideo = str(Path(sys.executable).with_name("hitvideo"))
    command = [hitvideo, "slurm", arguments[3], "--nodes", "1", "--cluster", str(site), "--submit", *words]
    with logs_on_failure(LOGS):
        said = cluster.run(*command, cwd=ROOT).stdout
        cluster.wait(said.split()[-1], "COMPLETED")
    until(lambda: (tmp_path / "work/runs/tiny-tokenizer/DONE").is_file(), "DONE", timeout=5)
