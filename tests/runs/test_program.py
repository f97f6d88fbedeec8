"""What programs share: stopping by signal and file, exit codes, one-line errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hitvideo.runs.program import Stop
from tests.conftest import ROOT


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the handlers back that `Stop` replaces."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_the_file_stops(tmp_path: Path) -> None:
    stop = Stop(tmp_path / "STOP")
    assert not stop.requested
    (tmp_path / "STOP").touch()
    assert stop.requested


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops(tmp_path: Path, number: signal.Signals) -> None:
    stop = Stop(tmp_path / "STOP")
    os.kill(os.getpid(), number)
    assert stop.requested


@pytest.mark.usefixtures("handlers")
def test_interrupting_is_answered_and_twice_does_not_wait(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Stop(tmp_path / "STOP")
    os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.count("\n") == 1
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def start(body: str) -> subprocess.CompletedProcess[str]:
    """A program with this main."""
    imports = "import logging\nfrom hitvideo.runs.program import command_line, guarded\nfrom hitvideo.errors import *\n"
    source = f"{imports}def main(words):\n  {body}\nguarded(main)"
    return subprocess.run([sys.executable, "-c", source, "RUN.yaml"], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise ConfigError('x.yaml: fix it')", 2, "error: x.yaml: fix it\n"),
        ("raise ShardError('x.tar: cut')", 2, "error: x.tar: cut\n"),
        ("raise VideoError('corrupt', 'x.mp4: corrupt')", 2, "error: x.mp4: corrupt\n"),
        ("open('/absent/file')", 2, "error: [Errno 2] No such file or directory: '/absent/file'\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise ConfigError('x.yaml: ' + 'y' * 10**6)", 2, f"error: x.yaml: {'y' * 985}… and 999,015 more characters\n"),
        ("return 75", 75, ""),
        ("return 0", 0, ""),
    ],
)
def test_exit_codes(body: str, code: int, message: str) -> None:
    done = start(body)
    assert (done.returncode, done.stderr) == (code, message)


def test_anything_else_is_a_traceback_and_exit_code_1() -> None:
    for error in ("ValueError", "RuntimeError", "AssertionError"):
        done = start(f"raise {error}('a bug')")
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert done.stderr.endswith(f"{error}: a bug\n")


def test_info_is_shown_and_other_packages_are_not() -> None:
    log = "[logging.getLogger(name).info('hello from %s', name) for name in ('hitvideo.x', 'pretrain.y', 'urllib3')]"
    done = start(f"command_line('program', None, words); {log}")
    assert done.stderr.splitlines() == ["INFO hitvideo.x: hello from hitvideo.x", "INFO pretrain.y: hello from pretrain.y"]
