"""`hitvideo serve` from the command line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hitvideo.commands import cli
from tests.conftest import ROOT
from tests.serving.page import PROMPT, Client


def test_a_taken_port_is_said_before_anything_is_loaded(
    page: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--run", str(tmp_path / "absent"), "--port", str(page.port)])
    error = capsys.readouterr().err
    assert (caught.value.code, error.count("\n")) == (2, 1)
    assert f"--port {page.port}" in error


@pytest.mark.slow
def test_it_prints_its_address_answers_and_ends_by_ctrl_c(run: Path) -> None:
    words = ["serve", "--run", str(run), "--port", "0"]
    source = f"from hitvideo.commands.cli import main; main({words!r})"
    with subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        found = re.match(r"http://127\.0\.0\.1:(\d+)/ ", server.stdout.readline())
        assert found
        page = Client(int(found[1]))
        assert page.ask("GET", "/about")[1]["run"] == "tiny"
        assert page.done("/drafts", PROMPT)["videos"]
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
