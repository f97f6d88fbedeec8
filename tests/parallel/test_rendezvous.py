"""Rank and meeting address from torchrun, from srun, and alone. tests/slurm tests what srun really sets."""

from __future__ import annotations

import pytest

from hitvideo.errors import ConfigError
from hitvideo.parallel import rendezvous
from hitvideo.parallel.rendezvous import rank_environment

STEP = {
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "n[2-3]",
    "SLURM_JOB_ID": "70007",
}  # fmt: skip


def test_torchrun_takes_precedence() -> None:
    assert rank_environment({**STEP, "RANK": "0"}) == {}


def test_a_step_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_first_host", lambda nodelist: {"n[2-3]": "n2"}[nodelist])
    expected = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "n2", "MASTER_PORT": "30007"}
    assert rank_environment(STEP) == expected
    assert rank_environment({**STEP, "MASTER_ADDR": "10.0.0.1"})["MASTER_ADDR"] == "10.0.0.1", "a site can set its own address"


def test_a_step_in_a_container_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"n\[2-3\].*MASTER_ADDR"):
        rank_environment(STEP)
    assert rank_environment({**STEP, "MASTER_ADDR": "n2"})["MASTER_ADDR"] == "n2", "nobody needs to be asked"


def test_alone() -> None:
    """Also in a batch script, whose SLURM_NTASKS and SLURM_PROCID are the job's."""
    for environment in ({}, {"SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}):
        found = rank_environment(environment)
        assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")
        assert int(found["MASTER_PORT"]) > 0
