"""The tokenization array on a real cluster: elements cancelled, a node lost, submitted again: the same bytes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

import tokenize_shards.__main__ as program
from hitvideo.data.pack import write_moving_shapes
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from tests.conftest import ROOT
from tests.samples import tiny_hierarchy
from tests.slurm.cluster import Cluster, logs_on_failure, until

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(900)]
LOGS = ROOT / "slurm/logs"
TINY = "yaml_configs/tokenize_shards/tiny.yaml"


def digests(out: Path) -> dict[str, str]:
    kept = [path for path in out.iterdir() if path.is_file() and not path.name.startswith(".")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def test_an_array_that_loses_elements_and_a_node(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cluster.namespaces:
        pytest.skip("a node is powered off, which needs namespaces of its own (root)")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    hierarchy, clip = tiny_hierarchy()
    write_moving_shapes(tmp_path / "shards", 8 * 24, seed=0, clip=clip, objects="1", per_shard=24)
    torch.manual_seed(0)
    section = VideoTokenizerSection(patch=4, channels=(8, 12, 16), blocks=1, latent_channels=6)
    save_video_tokenizer(VideoTokenizer(section, hierarchy), tmp_path / "weights", clip)
    words = [TINY, f"video_tokenizer.weights={tmp_path}/weights", f"data.video_shards={tmp_path}/shards"]
    assert program.main([*words, f"data.out={tmp_path}/quiet"]) == 0

    line = ["--gpus-per-node=0", "--cpus-per-task=1", "--time=10", "slurm/tokenize_shards.sh", *words]
    line.append(f"data.out={tmp_path}/array")
    with logs_on_failure(LOGS):
        job = cluster.submit("--array=0-7%3", "--no-requeue", *line, cwd=ROOT)
        until(lambda: cluster.job(f"{job}_2").get("JobState") == "RUNNING", "three elements running")
        cluster.run("scancel", f"{job}_1", f"{job}_5")
        lost = cluster.job(f"{job}_2")["NodeList"]
        cluster.power_off(lost)
        until(lambda: not cluster.run("squeue", "-h", "-j", job).stdout.strip(), "the array's end", timeout=240)
        states = {cluster.job(f"{job}_{element}").get("JobState") for element in range(8)}
        assert "CANCELLED" in states
        cluster.power_on(lost)
        again = cluster.submit("--array=3,7,12", *line, cwd=ROOT)  # any numbers: each helps the others
        until(lambda: not cluster.run("squeue", "-h", "-j", again).stdout.strip(), "the second array's end", timeout=240)
    assert digests(tmp_path / "array") == digests(tmp_path / "quiet")


def test_ranks_of_a_step_without_torchrun(cluster: Cluster, tmp_path: Path) -> None:
    """srun alone starts the ranks: every one finds its place and the same meeting point."""
    program = (
        "import json, os; from hitvideo.parallel.rendezvous import rank_environment as found; "
        "print(json.dumps(found(os.environ)))"
    )
    printed = cluster.run("srun", "--nodes=2", "--ntasks-per-node=2", sys.executable, "-c", program, cwd=ROOT).stdout
    places = [json.loads(line) for line in printed.splitlines()]
    assert sorted(int(place["RANK"]) for place in places) == [0, 1, 2, 3]
    assert {place["WORLD_SIZE"] for place in places} == {"4"}
    assert len({(place["MASTER_ADDR"], place["MASTER_PORT"]) for place in places}) == 1
    assert places[0]["MASTER_ADDR"] in cluster.nodes
    assert sorted(place["LOCAL_RANK"] for place in places) == ["0", "0", "1", "1"]
