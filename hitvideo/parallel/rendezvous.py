"""This process's rank and the ranks' meeting address: from torchrun, else from srun, else a world of one.

    torchrun --nproc-per-node 8 -m pretrain RUN.yaml           RANK, WORLD_SIZE, … are set
    srun --ntasks-per-node=8 python -m pretrain RUN.yaml       SLURM_PROCID, SLURM_STEP_NUM_TASKS, …
    python -m pretrain RUN.yaml                                neither
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping

from hitvideo.errors import ConfigError

_FIRST_PORT, _PORTS = 20000, 12000  # as in slurm/env.sh; from 32768 on, Linux gives a port to any program


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables torch.distributed needs and `environment` lacks: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_*.

    Raises ConfigError if the ranks' meeting address is not set and cannot be found out.
    """
    if "RANK" in environment:
        return {}
    # The step's variables, not the job's: a batch script also has SLURM_NTASKS and SLURM_PROCID, but it is the only process.
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1:
        return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    port = str(_FIRST_PORT + int(environment["SLURM_JOB_ID"]) % _PORTS)  # jobs may share a node
    return {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": str(tasks),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or _first_host(environment["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": environment.get("MASTER_PORT") or port,
    }


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _first_host(nodelist: str) -> str:
    """Return the first host of a Slurm node list: n[3-5,9] → n3. Raises ConfigError if scontrol is not there to ask."""
    try:
        done = subprocess.run(["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"scontrol does not name the first host of {nodelist} ({error}), as in a container without Slurm: "
            "set MASTER_ADDR to that host before srun, or start the ranks with torchrun"
        ) from None
    return done.stdout.split()[0]
