"""slurm/launch.sh with commands that only note how they are called: which nodes train, and how a job goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
case "$1 $2" in
  "show hostnames") printf 'n%s\\n' {1..8} ;;
  "show job") echo "JobId=7 JobName=x $STATE Partition=p ExcNodeList=n9 NumNodes=8 TresPerNode=gres:gpu:1" ;;
  "show node") echo "NodeName=$4 NodeAddr=10.0.0.${4#n} NodeHostName=h" ;;
esac
[ "$1" != requeue ] || exit "$REQUEUE"
"""
# The nodes that report; without a word of the pre-flight it is the ranks' step.
SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
[[ "$*" == *cluster.preflight* ]] || { touch "$RUN/DONE"; echo "ranks meet at $MASTER_ADDR $NUMA" >> "$CALLS"; exit; }
for node in $REPORTING; do echo "$REPORT" > "$HITVIDEO_FAULTS/$node.json"; done
"""
GOOD: dict[str, object] = {"faults": [], "versions": {}, "hardware": {}, "no_numa_binding": None}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with a line for each call. The job has eight nodes, n1 … n8, with one GPU each."""
    for name, text in {
        "scontrol": SCONTROL,
        "srun": SRUN,
        "sbatch": '#!/bin/bash\n(echo "sbatch $*"; env | grep -E "^(SLURM_|HITVIDEO_|MASTER_)") >> "$CALLS"\necho 8\n',
        "squeue": "#!/bin/bash\necho '12 afterok:7(unfulfilled)'\necho '13 afterok:77(unfulfilled)'\n",
        "sleep": "#!/bin/bash\n",
    }.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for name, value in {
        "PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"),
        "RUN": str(tmp_path / "x"), "REPORT": json.dumps(GOOD), "REQUEUE": "0",
        "STATE": "JobState=RUNNING Reason=None Requeue=1", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "8",
        "SLURM_JOB_NODELIST": "n[1-8]", "SLURM_GPUS_ON_NODE": "1", "SLURM_GPUS_PER_NODE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return tmp_path / "calls"


def launch(calls: Path, reporting: str, *words: str, spares: int = 0) -> tuple[int, list[str]]:
    """The exit code, and the calls."""
    script = f'set -uo pipefail; SPARES={spares}; source slurm/env.sh; source slurm/launch.sh; launch pretrain "$@"'
    settings = [str(TINY), f"run.root={calls.parent}", "run.name=x", "train.global_batch=56", "train.micro_batch=1", *words]
    done = subprocess.run(
        ["bash", "-c", script, "job.sh", *settings], cwd=ROOT, env={**os.environ, "REPORTING": reporting}, capture_output=True
    )
    return done.returncode, calls.read_text().splitlines()


ALL = "n1 n2 n3 n4 n5 n6 n7 n8"


def test_a_job_on_fit_nodes_ends(calls: Path) -> None:
    code, made = launch(calls, ALL)
    assert code == 0
    steps = [call for call in made if call.startswith("srun")]
    assert len(steps) == 2
    assert "--nodelist=n1,n2,n3,n4,n5,n6,n7,n8" in steps[0]
    assert any(call.endswith("cluster.nodes=8 cluster.devices_per_node=1") for call in made)
    assert "ranks meet at 10.0.0.1 --numa-binding=node" in made
    assert "scontrol update JobId=7 JobName=x" in made


def test_only_those_without_a_report_are_checked_again(calls: Path) -> None:
    code, made = launch(calls, "n1 n2 n3 n4 n5 n6 n7", spares=1)
    assert code == 0, "one spare replaces the node"
    steps = [call for call in made if call.startswith("srun")]
    assert ["--nodelist=n8" in step for step in steps] == [False, True, False]
    assert "--nodelist=n1,n2,n3,n4,n5,n6,n7 " in steps[2]


def test_a_node_that_never_reports_is_not_excluded(calls: Path) -> None:
    _, made = launch(calls, "n1 n2 n3 n4 n5 n6 n7", "train.global_batch=64")
    assert "scontrol requeue 7" in made
    assert not any("update JobId=7 ExcNodeList" in call for call in made)
    (row,) = (calls.parent / "x/attempts.jsonl").read_text().splitlines()
    assert json.loads(row)["kind"] == "unfit"


def test_a_broken_node_is_excluded_with_those_before(calls: Path) -> None:
    bad = calls.parent / "x/attempts/7.0/n3.json"
    srun = calls.parent / "bin/srun"
    srun.write_text(srun.read_text() + f"""echo '{json.dumps(GOOD | {"faults": ["devices: gone"]})}' > {bad}\n""")
    _, made = launch(calls, ALL, "train.global_batch=64")
    assert made.index("scontrol requeue 7") < made.index("scontrol update JobId=7 ExcNodeList=n9,n3")


@pytest.mark.parametrize(("refused", "words"), [("1", []), ("0", ["cluster.slurm.chain=resubmit"])])
def test_a_job_submits_itself_again(calls: Path, monkeypatch: pytest.MonkeyPatch, refused: str, words: list[str]) -> None:
    monkeypatch.setenv("REQUEUE", refused)
    code, made = launch(calls, "", "train.global_batch=64", "data.manifest=a b;c", *words)
    assert code == 0
    (submitted,) = [call for call in made if call.startswith("sbatch")]
    options = {"--export=ALL", "--partition=p", "--nodes=8", "--gpus-per-node=1", "--exclude=n9", "--dependency=afterany:7"}
    assert options <= set(submitted.split())
    assert " job.sh " in submitted
    assert submitted.endswith(" ".join(["train.global_batch=64", "data.manifest=a b;c", *words]))
    assert "HITVIDEO_CHAIN=7" in made
    assert not any(call.startswith(("SLURM_", "MASTER_", "HITVIDEO_ATTEMPT", "HITVIDEO_FAULTS")) for call in made)
    assert "scontrol update JobId=12 Dependency=afterok:8" in made
    assert not any("JobId=13" in call for call in made), "it waits for another job"
    assert ("scontrol requeue 7" in made) == (not words)


@pytest.mark.parametrize(
    ("state", "goes_on"),
    [
        ("JobState=COMPLETING Reason=None Requeue=1", False),  # cancelled
        ("JobState=COMPLETING Reason=NodeDown Requeue=1", False),  # Slurm requeues it by itself
        ("JobState=COMPLETING Reason=NodeDown Requeue=0", True),
        ("JobState=RUNNING Reason=None Requeue=0", True),
    ],
)
def test_a_cancelled_job_and_one_that_slurm_requeues_are_not_submitted_again(
    calls: Path, monkeypatch: pytest.MonkeyPatch, state: str, goes_on: bool
) -> None:
    monkeypatch.setenv("REQUEUE", "1")
    monkeypatch.setenv("STATE", state)
    _, made = launch(calls, "", "train.global_batch=64")
    assert any(call.startswith("sbatch") for call in made) == goes_on


def tokenize(calls: Path, monkeypatch: pytest.MonkeyPatch, report: object, **variables: str) -> tuple[int, list[str]]:
    """The exit code and the calls of an array's last task, whose number is that of the array, on the node n3."""
    shutil.copytree(ROOT / "slurm", calls.parent / "slurm", ignore=shutil.ignore_patterns("logs"))
    (calls.parent / "bin/scontrol").write_text(SCONTROL.replace("{1..8}", "3"))
    given = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "5", "SLURM_JOB_NUM_NODES": "1",
             "SLURM_SUBMIT_DIR": str(calls.parent), "REPORTING": "n3",
             "REPORT": json.dumps(report), "PYTHONPATH": str(ROOT), **variables}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(["bash", "slurm/tokenize_shards.sh", "RUN.yaml", "data.out=x"], cwd=calls.parent, capture_output=True)
    return done.returncode, calls.read_text().splitlines()


@pytest.fixture
def srun_of_an_array(calls: Path) -> None:
    path = calls.parent / "bin/srun"
    path.write_text(SRUN.replace("$HITVIDEO_FAULTS/$node", "slurm/logs/tokenize-7_5-r0/$node"))
    (calls.parent / "x").mkdir()


@pytest.mark.usefixtures("srun_of_an_array")
def test_a_task_of_an_array_begins_on_a_fit_node(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, made = tokenize(calls, monkeypatch, GOOD)
    assert code == 0
    steps = [call for call in made if call.startswith("srun")]
    assert ["cluster.preflight" in step for step in steps] == [True, False]
    assert steps[1].endswith("python -m tokenize_shards RUN.yaml data.out=x")
    assert not any("requeue" in call for call in made)
    assert not list((calls.parent / "slurm/logs").iterdir()), "no report is left"


@pytest.mark.usefixtures("srun_of_an_array")
@pytest.mark.parametrize("requeue", ["0", "1"])
def test_a_task_of_an_array_leaves_an_unfit_node(calls: Path, monkeypatch: pytest.MonkeyPatch, requeue: str) -> None:
    """It alone is requeued. Where that is refused, it fails: submitted again, it would no longer be one of the array."""
    code, made = tokenize(calls, monkeypatch, GOOD | {"faults": ["devices: gone"]}, REQUEUE=requeue)
    assert code == 1
    assert not any("-m tokenize_shards" in call for call in made)
    assert "scontrol requeue 7_5" in made
    assert ("scontrol update JobId=7_5 ExcNodeList=n9,n3" in made) == (requeue == "0")
    assert not any(call.startswith("sbatch") for call in made)


@pytest.mark.usefixtures("srun_of_an_array")
def test_a_task_is_not_requeued_for_ever(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, made = tokenize(calls, monkeypatch, GOOD | {"faults": ["devices: gone"]}, MOST_RESTARTS="0")
    assert code == 1
    assert not any("requeue" in call for call in made)
