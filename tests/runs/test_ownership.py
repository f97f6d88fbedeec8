"""One start at a time holds a run; a dead one holds nothing; a newer attempt of a Slurm job takes over."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hitvideo.errors import ConfigError
from hitvideo.runs.ownership import ENVIRONMENT, LOCK, TakenOverError, held
from tests.conftest import ROOT

HOLD = "import sys\nfrom pathlib import Path\nfrom hitvideo.runs.ownership import held\n"
HOLD += "with held(Path(sys.argv[1])):\n  print('held', flush=True)\n  sys.stdin.read()"


@contextmanager
def holder(run: Path, attempt: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run."""
    environment = {**os.environ, **({ENVIRONMENT: attempt} if attempt else {})}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], cwd=ROOT, env=environment, stdin=-1, stdout=-1, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_start_is_told_who_holds_the_run(tmp_path: Path) -> None:
    with holder(tmp_path / "r") as process:
        before = sorted(tmp_path.rglob("*"))
        who = rf"process {process.pid} on {re.escape(socket.gethostname())} holds this run since \d{{4}}-.*run\.name"
        with pytest.raises(ConfigError, match=who), held(tmp_path / "r"):
            pass
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_holder_holds_nothing(tmp_path: Path, end: signal.Signals) -> None:
    with holder(tmp_path / "r") as process:
        process.send_signal(end)
        process.wait()
        with held(tmp_path / "r"):
            pass
    with held(tmp_path / "r"), pytest.raises(ConfigError, match=str(os.getpid())), held(tmp_path / "r"):
        pass


def test_a_holder_that_has_not_yet_written_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitvideo.runs.ownership._LOOK_SECONDS", 0.001)
    for content in (b"", b"{", b"[]", b'{"since": "x"}'):
        with held(tmp_path):
            (tmp_path / LOCK).write_bytes(content)
            with pytest.raises(ConfigError, match="another process holds this run"), held(tmp_path):
                pass


def test_attempts_of_slurm_take_over_from_older_ones_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "OWNER").write_text("7.1\n")
    with holder(tmp_path, "7.0"):
        with pytest.raises(ConfigError, match="holds this run"), held(tmp_path):
            pass
        monkeypatch.setenv(ENVIRONMENT, "7.1")
        with held(tmp_path), pytest.raises(ConfigError, match="holds this run"), held(tmp_path):
            pass  # the second world of one that mpirun starts in the same job
    monkeypatch.setenv(ENVIRONMENT, "7.0")
    with holder(tmp_path, "7.1"), pytest.raises(TakenOverError), held(tmp_path):
        pass
    monkeypatch.setenv(ENVIRONMENT, "7.1")
    with holder(tmp_path), pytest.raises(ConfigError, match="holds this run"), held(tmp_path):
        pass  # OWNER does not stop a start outside Slurm


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_flock_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def no_flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with held(tmp_path), held(tmp_path):
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert str(tmp_path / LOCK) in caplog.text


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder discards its directory between the open and the lock of the next start."""
    lock: Callable[[int, int], None] = fcntl.flock
    calls = []

    def and_removed(handle: int, kind: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        lock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", and_removed)
    with held(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / LOCK).is_file()
        with pytest.raises(ConfigError, match="holds this run"), held(tmp_path):
            pass
