"""The options of a running job, to submit it again on sites that requeue no jobs: Slurm keeps no line of the first sbatch."""

from __future__ import annotations

import re

_OPTIONS = {
    "JobName": "job-name", "Partition": "partition", "Account": "account", "QOS": "qos", "TimeLimit": "time",
    "MinMemoryNode": "mem", "MinMemoryCPU": "mem-per-cpu", "Features": "constraint", "Reservation": "reservation",
    "ReqNodeList": "nodelist",
}  # fmt: skip


def options_of_a_job(text: str, gpus_per_node: str, exclude: str) -> list[str]:
    """sbatch's options from the line of `scontrol show job -o`; what the script says in #SBATCH lines only is still there.

    `gpus_per_node`: as the job asked with this option, empty if it did not; Slurm shows it mixed with --gres. `exclude`: hosts
    with commas between them.
    """
    fields = dict(re.findall(r"(\S+?)=(\S*)", text))
    found = {option: value for field, option in _OPTIONS.items() if (value := fields.get(field, "(null)")) != "(null)"}
    found["nodes"] = fields["NumNodes"].split("-")[0]
    if (cpus := fields.get("CPUs/Task", "N/A")) not in ("N/A", "1"):
        found["cpus-per-task"] = cpus
    asked = [re.sub(r"^gres[:/]", "", each) for each in fields.get("TresPerNode", "").split(",") if each not in ("", "(null)")]
    if gpus_per_node:
        found["gpus-per-node"] = gpus_per_node
        asked = asked[1:]  # this option comes first
    if asked:
        found["gres"] = ",".join(asked)
    if hosts := ",".join(filter(None, exclude.split(","))):
        found["exclude"] = hosts
    found["dependency"] = f"afterany:{fields['JobId']}"  # two attempts must not meet
    return [f"--{option}={value}" for option, value in found.items()]
