"""The Slurm script of one run, printed or submitted if the plan shows that the run fits.

    hitvideo slurm yaml_configs/pretrain/7b.yaml --nodes 16 data.manifest=tokens/manifest.json
    hitvideo slurm RUN.yaml --nodes 16 --cluster site.yaml --submit

`site.yaml` holds a `cluster:` section: devices, their memory and speed, partition, account. The script is the one in
slurm/ with those values in it. Settings that are wrong or do not fit fail here, not after hours in the queue.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hitvideo import config
from hitvideo.errors import ConfigError
from hitvideo.settings.programs import COMMANDS, PretrainRun, TokenizeRun, VideoTokenizerRun, check_layout, load_settings

LAUNCHER = Path("slurm/launch.sh")


def cluster_words(path: Path) -> list[str]:
    """A cluster YAML as `cluster.key=value` words. Raises ConfigError if it holds anything else."""
    content = config.resolve(path)
    if set(content) != {"cluster"}:
        raise ConfigError(f"{path}: a cluster file holds one section, 'cluster'; this one holds {sorted(content)}")
    values = {key: "null" if value is None else value for key, value in config.flat(content).items()}
    return [f"{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in values.items()]  # JSON is YAML


def checked(run: Path, words: Sequence[str]) -> VideoTokenizerRun | PretrainRun:
    """The settings of a run that fits the cluster's devices. Raises ConfigError if it does not, or if they are wrong."""
    if config.resolve(run).get("program") == "tokenize_shards":
        raise ConfigError(f"{run} is an array job: sbatch --array=0-15 slurm/tokenize_shards.sh {run} …")
    settings = load_settings(run, words)
    assert not isinstance(settings, TokenizeRun)
    if isinstance(settings, PretrainRun):
        from hitvideo.planning.language_model import plan_language_model

        needed, available = plan_language_model(settings).total_gib, settings.cluster.memory_gib
    else:
        from hitvideo.planning.video_tokenizer import plan_video_tokenizer

        needed, available = plan_video_tokenizer(settings).total_gib, settings.cluster.memory_gib
    check_layout(settings)
    if needed > available:
        raise ConfigError(
            f"{run}: needs {needed:.1f} GiB a device, the cluster's have {available:.1f}; take more --nodes, a larger "
            f"parallel.tensor, or parallel.activation_checkpointing=block (see `hitvideo plan`)"
        )
    return settings


def script(run: Path, words: Sequence[str], nodes: int) -> str:
    """The sbatch script, with every user-given word quoted for the shell."""
    settings = checked(run, [*words, f"cluster.nodes={nodes}"])
    site, devices = settings.cluster.slurm, settings.cluster.devices_per_node
    gpus = f"{site.gpu_type}:{devices}" if site.gpu_type else str(devices)
    options = {
        "job-name": settings.run.name,
        "nodes": nodes + site.spares,
        "ntasks-per-node": 1,
        "gpus-per-node": gpus if site.gpu_option == "gpus-per-node" else None,
        "gres": f"gpu:{gpus}" if site.gpu_option == "gres" else None,
        "cpus-per-task": site.cpus_per_node,
        "mem": site.mem,
        "time": site.time,
        "signal": f"B:USR1@{site.grace_seconds}",
        "open-mode": "append",
        "output": "slurm/logs/%x-%j.out",
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
    }
    flags = ["--requeue" if site.chain == "requeue" else "--no-requeue"]
    flags += [*(["--exclusive"] if site.exclusive else []), *site.extra]
    written = [f"--{name}={value}" for name, value in options.items() if value is not None]
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in [*written, *flags])]
    lines += ["set -uo pipefail", f"PROCESSES_PER_NODE={devices}"]
    lines += [f"SPARES={site.spares}"] if site.spares else []
    lines += [f'source "$SLURM_SUBMIT_DIR/slurm/{name}.sh"' for name in ("env", "launch")]
    return "\n".join([*lines, shlex.join(["launch", COMMANDS[settings.program], str(run), *words])]) + "\n"


def submit(text: str) -> str:
    """sbatch from the checkout; returns the job's id. Raises ConfigError with Slurm's own message if it refuses."""
    if not LAUNCHER.is_file():
        raise ConfigError(f"{LAUNCHER} is missing here; submit from the checkout, because the job runs its scripts")
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigError("sbatch is not installed here; leave --submit out to see the script") from None
    if done.returncode:
        raise ConfigError(f"sbatch refused the job: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]
