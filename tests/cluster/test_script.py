"""`hitvideo slurm`: the script of a run, and what is refused before it is queued."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hitvideo.cluster.script import cluster_words, script, submit
from hitvideo.errors import ConfigError
from hitvideo.settings.cluster import slurm_seconds
from hitvideo.settings.programs import load_settings
from tests.conftest import ROOT

SEVEN = ROOT / "yaml_configs/pretrain/7b.yaml"
TOKENIZER = ROOT / "yaml_configs/pretrain_tokenizer/paper_4level.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash_and_say_how_to_start_them(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    if text.startswith("#!"):
        assert text.splitlines()[1].startswith(("# sbatch ", "# bash ")), "the first line after #! starts it"
    if "#SBATCH" in text:
        assert "--output=slurm/logs/" in text, "a folder that every checkout has"
        assert "$0" not in text, "in a job that is a copy in Slurm's spool"


def test_the_log_folder_is_in_every_checkout() -> None:
    tracked = subprocess.run(["git", "ls-files", "slurm/logs"], cwd=ROOT, capture_output=True, text=True)
    assert tracked.returncode or "slurm/logs/.gitignore" in tracked.stdout


def test_the_script_of_a_run(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("cluster: {peak_tflops: 989, memory_gib: 80, slurm: {partition: big, time: '30', spares: 1}}\n")
    text = script(SEVEN, [*cluster_words(site), "data.manifest=a b/manifest.json", "run.name=my-7b"], nodes=16)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    lines = text.splitlines()
    for wanted in ("job-name=my-7b", "nodes=17", "gpus-per-node=8", "partition=big", "time=30", "signal=B:USR1@600"):
        assert f"#SBATCH --{wanted}" in lines
    assert not any("account" in line and line.startswith("#SBATCH") for line in lines), "what is not set is left out"
    assert lines[-1].startswith(f"launch pretrain {SEVEN} cluster.peak_tflops=989")
    assert "'data.manifest=a b/manifest.json'" in lines[-1], "the user's words are quoted for the shell"
    assert "SPARES=1" in lines


def test_a_site_file_means_what_is_written(tmp_path: Path) -> None:
    """YAML 1.1 reads a time to base 60, a number of an account as a number, and `no` as false."""
    site = tmp_path / "site.yaml"
    site.write_text(
        "cluster: {peak_tflops: 989, memory_gib: 80,\n"
        "          slurm: {time: 24:00:00, account: 00123, partition: no, qos: 12e5, cpus_per_node: null}}\n"
    )
    lines = script(SEVEN, [*cluster_words(site), "run.name=0012"], nodes=16).splitlines()
    for wanted in ("job-name=0012", "time=24:00:00", "account=00123", "partition=no", "qos=12e5"):
        assert f"#SBATCH --{wanted}" in lines


def test_the_lines_of_a_site(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "base: [%s]\ncluster:\n  slurm: {gpu_option: gres, gpu_type: a100, exclusive: false, mem: 400G, cpus_per_node: 64,\n"
        "          chain: resubmit, extra: ['--constraint=a100&ib', --mail-type=END, --comment='a b']}\n"
        % (ROOT / "yaml_configs/parts/cluster/a100_4gpu.yaml")
    )
    lines = script(SEVEN, cluster_words(site), nodes=32).splitlines()
    wanted = ("gres=gpu:a100:4", "mem=400G", "cpus-per-task=64", "no-requeue", "constraint=a100&ib", "mail-type=END")
    for option in (*wanted, "comment='a b'"):
        assert f"#SBATCH --{option}" in lines
    assert not any(line.startswith(("#SBATCH --gpus-per-node", "#SBATCH --exclusive", "#SBATCH --requeue")) for line in lines)
    assert "PROCESSES_PER_NODE=4" in lines
    assert "cluster.peak_tflops=312" in lines[-1]


def test_an_exclusive_job_asks_for_all_of_its_nodes(tmp_path: Path) -> None:
    lines = script(SEVEN, [], nodes=16).splitlines()
    assert {"#SBATCH --exclusive", "#SBATCH --mem=0", "#SBATCH --requeue"} <= set(lines)
    assert not any("cpus-per-task" in line or "gres" in line for line in lines)
    alone = script(SEVEN, ["cluster.slurm.gpu_option=null"], nodes=16)
    assert "gpu" not in "\n".join(line for line in alone.splitlines() if line.startswith("#SBATCH"))


@pytest.mark.parametrize("option", ["constraint=x", "--x=1\n#SBATCH --y=2", "--x y", "-p big", "#"])
def test_an_extra_line_is_one_option(option: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.slurm\.extra"):
        script(SEVEN, [f"cluster.slurm.extra={json.dumps([option])}"], nodes=16)


SIZES = {"1b": 2, "3b": 4, "7b": 16, "13b": 16}


@pytest.mark.parametrize("size", SIZES)
def test_the_scripts_of_the_sizes_are_derived_from_one(size: str, tmp_path: Path) -> None:
    for name in ("sizes.sh", "pretrain.sh"):
        shutil.copy(ROOT / "slurm" / name, tmp_path)
    subprocess.run(["bash", str(tmp_path / "sizes.sh")], check=True)
    text = (ROOT / f"slurm/pretrain_{size}.sh").read_text()
    assert text == (tmp_path / f"pretrain_{size}.sh").read_text(), "change pretrain.sh, then: bash slurm/sizes.sh"
    assert f"#SBATCH --nodes={SIZES[size]} " in text
    assert text.endswith(f'launch pretrain yaml_configs/pretrain/{size}.yaml "$@"\n')
    other = [line for line in text.splitlines() if line not in (ROOT / "slurm/pretrain.sh").read_text().splitlines()]
    assert len(other) == 5


PARTS = sorted((ROOT / "yaml_configs/parts/cluster").glob("*.yaml"))


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_cluster_parts(path: Path) -> None:
    """Each is a cluster file as it is, and says GPUs unless it is a laptop's."""
    settings = load_settings(SEVEN, cluster_words(path))
    assert settings.cluster.trains_on == ("cpu" if path.stem == "laptop" else "gpu")  # type: ignore[union-attr]


def test_the_option_nodes_counts_and_not_the_files() -> None:
    words = cluster_words(ROOT / "yaml_configs/parts/cluster/h200.yaml")
    assert "cluster.nodes=1" in words
    with pytest.raises(ConfigError, match="not a multiple"):
        script(SEVEN, words, nodes=3)


def test_a_tokenizer_run_has_its_program() -> None:
    assert "launch pretrain.video_tokenizer" in script(TOKENIZER, ["data.video_shards=x"], nodes=2)


@pytest.mark.parametrize(
    ("words", "nodes", "reason"),
    [
        (["cluster.memory_gib=1"], 16, r"needs .* GiB a device, the cluster's have 1.0; take more --nodes"),
        (["train.setps=5"], 16, "unknown key 'train.setps'; did you mean 'train.steps'"),
        ([], 3, "train.global_batch 512 is not a multiple of"),
        (["parallel.tensor=3"], 16, "not divisible by parallel.tensor 3"),
        (["cluster.slurm.partition='x;rm y'"], 16, "one word of letters"),
        (["cluster.slurm.time='10'"], 16, "time 10 is not a minute longer than grace_seconds 600"),
        (["cluster.slurm.time=soon"], 16, "soon is not a time limit"),
    ],
)
def test_what_cannot_run_is_refused(words: list[str], nodes: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        script(SEVEN, words, nodes)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90", 5400), ("1:30", 90), ("24:00:00", 86400), ("2-12", 216000), ("1-0:5", 86700), ("UNLIMITED", None)],
)
def test_time_limits_are_read_as_slurm_reads_them(limit: str, seconds: int | None) -> None:
    """The examples follow `man sbatch`, --time."""
    assert slurm_seconds(limit) == seconds


def test_array_jobs_have_their_own_script() -> None:
    with pytest.raises(ConfigError, match=r"is an array job: sbatch --array"):
        script(ROOT / "yaml_configs/tokenize_shards/tiny.yaml", [], 1)


def test_a_cluster_file_holds_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {steps: 1}\n")
    with pytest.raises(ConfigError, match="a cluster file holds one section"):
        cluster_words(tmp_path / "a.yaml")


def test_submitting_elsewhere_than_from_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="submit from the checkout"):
        submit("#!/bin/bash\n")
