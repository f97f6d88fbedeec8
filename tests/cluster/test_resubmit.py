"""A job's own options, from what Slurm shows of it."""

from __future__ import annotations

from hitvideo.cluster.resubmit import options_of_a_job

# Slurm 22.05, of: sbatch --gpus-per-node=0 --gres=gpu:4 --time=1-00:00:00 --mem=0 …
SHOWN = (
    "JobId=3 JobName=my-7b UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901757 Nice=0 Account=lab QOS=(null) "
    "JobState=RUNNING Reason=None Dependency=(null) Requeue=0 Restarts=0 RunTime=00:00:00 TimeLimit=1-00:00:00 TimeMin=N/A "
    "Partition=tests AllocNode:Sid=localhost:24019 ReqNodeList=(null) ExcNodeList=n[1-2] NodeList=n[3-4] NumNodes=2 "
    "NumCPUs=192 NumTasks=2 CPUs/Task=1 ReqB:S:C:T=0:0:*:* TRES=cpu=192,node=2,billing=192 NtasksPerN:B:S:C=1:0:*:* "
    "MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0 Features=h100&ib OverSubscribe=NO Command=/a/p.sh WorkDir=/a Power= "
    "TresPerNode=gres:gpu:0,gres:gpu:4 "
)


def test_the_options_of_a_job() -> None:
    assert set(options_of_a_job(SHOWN, gpus_per_node="0", exclude="n1,n2,n7")) == {
        "--job-name=my-7b", "--account=lab", "--time=1-00:00:00", "--partition=tests", "--nodes=2", "--mem=0",
        "--constraint=h100&ib", "--gpus-per-node=0", "--gres=gpu:4", "--exclude=n1,n2,n7", "--dependency=afterany:3",
    }  # fmt: skip


def test_gpus_as_they_were_asked_for() -> None:
    typed = SHOWN.replace("gres:gpu:0,gres:gpu:4", "gres/gpu:h100:8")  # as newer versions write it
    options = options_of_a_job(typed, gpus_per_node="h100:8", exclude="")
    assert [each for each in options if "gpu" in each] == ["--gpus-per-node=h100:8"]
    options = options_of_a_job(typed, gpus_per_node="", exclude="n5,")
    assert [each for each in options if "gpu" in each] == ["--gres=gpu:h100:8"]
    assert "--exclude=n5" in options


def test_other_forms_of_nodes_cpus_and_memory() -> None:
    shown = SHOWN.replace("NumNodes=2", "NumNodes=2-4").replace("CPUs/Task=1", "CPUs/Task=12")
    shown = shown.replace("MinMemoryNode=0", "MinMemoryCPU=4G")
    options = options_of_a_job(shown, "", "")
    assert {"--nodes=2", "--cpus-per-task=12", "--mem-per-cpu=4G"} <= set(options)
    assert not any(each.startswith(("--mem=", "--exclude", "--qos", "--reservation")) for each in options)
