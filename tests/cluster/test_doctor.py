"""The doctor names what is broken: each of five things broken on purpose fails, or warns, under its own name."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hitvideo.cluster.doctor import Finding, as_issue, checked, machine_findings, scrubbed
from hitvideo.cluster.doctor_run import run_checks
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT
from tests.samples import make_token_shards
from tests.tokenize_shards.helpers import save_tokenizer

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"


def state(name: str, root: Path, *words: str) -> str:
    settings = load_settings_as(PretrainRun, TINY, [f"run.root={root}", *words])
    (found,) = checked({name: run_checks(settings)[name]})
    assert found.name == name
    assert found.fix or found.state in ("ok", "skip")
    return found.state


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process cannot write; the administrator may write anywhere, and is somebody else for a while."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(me)
        shutil.rmtree(folder)


def test_this_machine() -> None:
    findings = machine_findings()
    assert {each.state for each in findings} <= {"ok", "skip", "warn"}
    assert {"temporary folder", "shared memory", "devices", "decoder", "attention", "norm"} <= {each.name for each in findings}


def test_a_read_only_run_root(read_only: Path) -> None:
    assert state("run root", read_only) == "fail"
    assert state("run root", Path(tempfile.gettempdir())) == "ok"


def test_sqlite_on_two_nodes(tmp_path: Path) -> None:
    assert state("tracking", tmp_path, "cluster.nodes=2") == "warn"
    assert state("tracking", tmp_path, "cluster.nodes=1") == "ok"
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    assert state("tracking", tmp_path) == "fail"


def test_the_wrong_tokenizer(tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path / "tokens", shards=1, per_shard=4)
    save_tokenizer(tmp_path / "weights", 7)
    words = f"data.manifest={manifest}", f"video_tokenizer.weights={tmp_path / 'weights'}"
    assert state("tokenizer", tmp_path, *words) == "fail"
    assert state("tokenizer", tmp_path, words[0]) == "skip"
    assert state("data", tmp_path, words[0]) == "ok"
    (tmp_path / "tokens/000000.tar").unlink()
    assert state("data", tmp_path, words[0]) == "fail"


def test_no_space(tmp_path: Path) -> None:
    assert state("space", tmp_path, "checkpoint.keep_last=1000000000") == "fail"
    assert state("space", tmp_path, "checkpoint.keep_last=1") == "ok"


def test_an_unreachable_server(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert state("tracking", tmp_path, f"tracking.uri=http://me:s3cret@127.0.0.1:{port}") == "fail"
    for off in ("tracking.enabled=false", "tracking.uri=null"):
        assert state("tracking", tmp_path, off) == "skip"


def test_an_issue_holds_no_names_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"HOME": "/Users/ada", "USER": "ada", "HF_TOKEN": "hf_abcdefgh"}
    text = scrubbed("ada at /Users/ada/runs, /scratch/bob/x, hf_abcdefgh, http://ada:pw@host/", environment)
    assert not [word for word in ("ada", "bob", "hf_abcdefgh", "pw") if word in text]
    monkeypatch.setenv("WANDB_API_KEY", "secret-value")
    block = as_issue({}, [Finding("x", "fail", f"secret-value on {socket.gethostname()}", "y")])
    assert "secret-value" not in block
    assert "on HOST" in block
