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
def test_interrupting_twice_does_not_wait(tmp_path: Path) -> None:
    Stop(tmp_path / "STOP")
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise ConfigError('x.yaml: mend it')", 2, "error: x.yaml: mend it\n"),
        ("return 75", 75, ""),
        ("return 0", 0, ""),
    ],
)
def test_exit_codes(body: str, code: int, message: str) -> None:
    imports = "from hitvideo.runs.program import guarded\nfrom hitvideo.errors import ConfigError\n"
    source = f"{imports}def main(words):\n  {body}\nguarded(main)"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, message)
