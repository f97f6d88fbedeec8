"""The doctor names what is broken: each of five things broken on purpose fails, or warns, under its own name."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hitvideo.cluster.doctor import Finding, as_issue, checked, machine_findings, scrubbed
from hitvideo.cluster.doctor_run import run_checks
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT
from tests.samples import make_token_shards
from tests.tokenize_shards.helpers import save_tokenizer
from tests.tracking.servers import mlflow_server

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


@pytest.mark.slow
def test_a_server_is_written_to_and_nothing_stays(tmp_path: Path) -> None:
    """An experiment that is missing is made, and the finding says so. The oracle is mlflow's own client."""
    from mlflow import MlflowClient

    with mlflow_server(tmp_path) as port:
        words = f"tracking.uri=http://127.0.0.1:{port}", "tracking.experiment=a b"
        settings = load_settings_as(PretrainRun, TINY, [f"run.root={tmp_path}", *words])
        first, second = (run_checks(settings)["tracking"]() for _ in range(2))
        assert (first.state, second.state) == ("ok", "ok")
        assert "'a b' was made" in first.found
        assert "made" not in second.found
        client = MlflowClient(tracking_uri=words[0].partition("=")[2])
        experiment = client.get_experiment_by_name("a b")
        assert not {key for key in experiment.tags if not key.startswith("mlflow.")}
        assert not client.search_runs([experiment.experiment_id])
        client.delete_experiment(experiment.experiment_id)
        assert "is deleted" in run_checks(settings)["tracking"]().found


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (403, "Invalid Host header", "--allowed-hosts"),
        (401, "", "MLFLOW_TRACKING_USERNAME"),
        (403, "no", "MLFLOW_TRACKING_USERNAME"),
        (500, "", "correct tracking.uri"),
        (200, "<html>", "correct tracking.uri"),
    ],
)
def test_a_server_that_does_not_let_write(tmp_path: Path, status: int, text: str, said: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = [f"run.root={tmp_path}", f"tracking.uri=http://me:s3cret@127.0.0.1:{server.server_port}"]
        (found,) = checked({"tracking": run_checks(load_settings_as(PretrainRun, TINY, words))["tracking"]})
        server.shutdown()
    assert found.state == "fail"
    assert said in found.fix
    assert "s3cret" not in found.found + found.fix


@pytest.mark.slow
def test_ranks_are_timed_together(tmp_path: Path) -> None:
    """Two processes of torchrun: rank 0 tells, once; one process says how to start several."""
    words = ["doctor", "--json", "--run", str(TINY), f"run.root={tmp_path}", "tracking.enabled=false"]
    binaries = Path(sys.executable).parent
    launch = [str(binaries / "torchrun"), "--nproc-per-node", "2", "--no-python", "--", str(binaries / "hitvideo"), *words]
    done = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found = {each["name"]: each for each in json.loads(line)["checks"]}["collectives"]
    assert found["state"] in ("ok", "warn"), found
    assert found["found"].startswith("2 ranks, 1 nodes")
    assert state("collectives", tmp_path) == "skip"


def test_an_issue_holds_no_names_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"HOME": "/Users/ada", "USER": "ada", "HF_TOKEN": "hf_abcdefgh"}
    text = scrubbed("ada at /Users/ada/runs, /scratch/bob/x, hf_abcdefgh, http://ada:pw@host/", environment)
    assert not [word for word in ("ada", "bob", "hf_abcdefgh", "pw") if word in text]
    monkeypatch.setenv("WANDB_API_KEY", "secret-value")
    block = as_issue({}, [Finding("x", "fail", f"secret-value on {socket.gethostname()}", "y")])
    assert "secret-value" not in block
    assert "on HOST" in block
