"""slurm/env.sh: CPUs, GPUs and memory of a job however they were asked for, and what a site sets of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

BASE = {"SLURM_JOB_ID": "70007", "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_ON_NODE": "112"}
PRINT = 'printf "%s\\n" "$PER_NODE" "$CPUS" "$MASTER_PORT" "$OMP_NUM_THREADS" "${SRUN[*]}" "${PREFIX[*]}" "$SLURM_EXPORT_ENV"'
NAMES = ("ranks", "cpus", "port", "threads", "srun", "prefix", "export")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with slurm/env.sh, and a scontrol that knows no job."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "slurm/env.sh", tmp_path / "slurm")
    shown(tmp_path, "")
    return tmp_path


def shown(checkout: Path, text: str) -> None:
    """What `scontrol show job -o` prints."""
    path = checkout / "bin/scontrol"
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)


def sourced(checkout: Path, also: str = "", **variables: str) -> dict[str, str]:
    environment = {"PATH": f"{checkout}/bin:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(checkout), **BASE, **variables}
    command = f"set -uo pipefail; source slurm/env.sh; {PRINT}; {also}"
    done = subprocess.run(["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(zip((*NAMES, "also"), done.stdout.splitlines(), strict=False))


@pytest.mark.parametrize(
    ("variables", "ranks"),
    [
        ({}, 8),  # --gres, --gpus, --gpus-per-task, or an exclusive node: what Slurm gave
        ({"SLURM_GPUS_PER_NODE": "2"}, 2),  # asked for, on an exclusive node of eight
        ({"SLURM_GPUS_PER_NODE": "h100:4"}, 4),
        ({"SLURM_GPUS_PER_NODE": "0"}, 8),  # --gpus-per-node=0 --gres=gpu:8
        ({"PROCESSES_PER_NODE": "3"}, 3),
        ({"SLURM_GPUS_ON_NODE": "0"}, 1),
    ],
)
def test_one_rank_a_gpu(checkout: Path, variables: dict[str, str], ranks: int) -> None:
    assert sourced(checkout, **variables)["ranks"] == str(ranks)


@pytest.mark.parametrize(
    ("asked", "ranks"),
    [
        ("gres:gpu:2", 2),
        ("gres/gpu:h100:4", 4),
        ("gres:gpu:0,gres:gpu:4", 4),
        ("gres:nvme:1,gres:gpu:a100:2", 2),
        ("gres:nvme:1", 8),
    ],
)
def test_a_step_of_an_exclusive_job_gets_what_gres_asked_for(checkout: Path, asked: str, ranks: int) -> None:
    shown(checkout, f"JobId=1 NumNodes=2 TresPerNode={asked} ")
    found = sourced(checkout)
    assert found["ranks"] == str(ranks)
    assert f"--gres=gpu:{ranks}" in found["srun"].split()


@pytest.mark.parametrize(
    ("variables", "cpus"),
    [
        ({}, 112),
        ({"SLURM_CPUS_PER_TASK": "96"}, 96),
        ({"SLURM_CPUS_PER_TASK": "12", "SLURM_NTASKS_PER_NODE": "8"}, 96),
        ({"SLURM_JOB_CPUS_PER_NODE": "128(x3),96,112(x2)"}, 96),  # a step has one number for all nodes
    ],
)
def test_a_step_has_all_cpus(checkout: Path, variables: dict[str, str], cpus: int) -> None:
    found = sourced(checkout, **variables)
    assert found["cpus"] == str(cpus)
    assert f"--cpus-per-task={cpus}" in found["srun"].split()
    assert found["threads"] == "8"


def test_srun_takes_nothing_else_from_the_job(checkout: Path) -> None:
    """srun reads these variables like options, and each would cut the step or contradict it."""
    names = ["GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK", "CPUS_PER_GPU", "NTASKS_PER_NODE", "MEM_PER_GPU", "TRES_PER_TASK"]
    found = sourced(
        checkout, f"env | grep -cE '^SLURM_({'|'.join(names)})=' || true", **{f"SLURM_{name}": "1" for name in names}
    )
    assert found["also"] == "0"
    assert "--mem=0" in found["srun"].split()


def test_gpus_that_are_no_resource_of_slurm(checkout: Path) -> None:
    assert "gres" not in sourced(checkout, SLURM_GPUS_ON_NODE="")["srun"]


def test_a_job_with_an_empty_environment_gives_its_steps_all(checkout: Path) -> None:
    assert sourced(checkout, SLURM_EXPORT_ENV="NONE")["export"] == "ALL"


@pytest.mark.parametrize("job", ["1", "11999", "12000", "70007", "4294901757"])
def test_ports_are_below_those_that_linux_gives_away(checkout: Path, job: str) -> None:
    assert 20000 <= int(sourced(checkout, SLURM_JOB_ID=job)["port"]) < 32000


def test_a_site_has_the_last_word(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/activate").write_text("WHERE=venv\n")
    (checkout / "slurm/site.sh").write_text(
        'WHERE=site MASTER_PORT=1234 OMP_NUM_THREADS=3 LAUNCH_PREFIX="apptainer exec --nv a.sif" SRUN_EXTRA="--a=1  --b"\n'
    )
    found = sourced(checkout, 'echo "$WHERE"')
    assert (found["port"], found["threads"], found["also"]) == ("1234", "3", "site")
    assert found["prefix"] == "apptainer exec --nv a.sif"
    assert found["srun"].startswith("srun --a=1 --b --ntasks-per-node=1 ")


def test_no_word_of_a_site_is_run_by_the_shell(checkout: Path) -> None:
    found = sourced(checkout, LAUNCH_PREFIX="$(touch bad) `touch bad` ; touch bad *", SRUN_EXTRA="$(touch bad) *")
    assert not (checkout / "bad").exists()
    assert found["prefix"] == "$(touch bad) `touch bad` ; touch bad *"
