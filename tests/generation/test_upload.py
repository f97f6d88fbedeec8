"""Uploading an export, by the real client of the Hugging Face hub, to a hub that runs here and keeps what it is sent."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hitvideo.runs.directory import SHOWCASE
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
TOKEN = "hf_a-secret-of-this-test"


class Hub:
    """Answers what the client asks to make a repository and commit files to it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        """Paths, and the Authorization header of each."""
        self.made: dict[str, object] = {}
        self.files: dict[str, bytes] = {}
        self.refuse = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.asked.append((self.path, self.headers.get("Authorization")))
                if hub.refuse:
                    self.answer(403, {"error": f"no write access with {TOKEN}"})
                else:
                    self.answer(200, hub.reply(self.path, body))

            do_GET = do_POST

            def answer(self, status: int, content: object) -> None:
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reply(self, path: str, body: bytes) -> object:
        if path.startswith("/api/repos/create"):
            self.made = json.loads(body)
            return {"url": f"{self.url}/me/mine"}
        if "/preupload/" in path:
            named = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in named]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.url}/me/mine/commit/{'a' * 40}"}
        return {"errors": [], "warnings": [], "type": "user", "name": "me"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    hub = Hub()
    yield hub
    hub.close()


def export(hub: Hub, place: Path, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """`hitvideo export` of the run that ships, in a process whose home is empty."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = known | {"HF_ENDPOINT": hub.url, "HF_HOME": str(place / "home"), "HF_HUB_DISABLE_XET": "1"}
    if token:
        environment["HF_TOKEN"] = token
    command = [str(Path(sys.executable).with_name("hitvideo")), "export", "showcase", str(place / "out"), *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_all_files_arrive_with_the_card_in_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    done = export(hub, tmp_path, "--names", "run", "--upload", "me/mine")
    assert done.returncode == 0, done.stderr
    written = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in written.items()} == hub.files
    assert hub.files["README.md"].startswith(b"---\nlibrary_name: hitvideo\n")
    assert hub.made["name"] == "mine"
    assert hub.made.get("private") is True or hub.made.get("visibility") == "private"
    assert done.stdout.splitlines()[-1].startswith(f"{hub.url}/me/mine/commit/")
    assert ("Bearer " + TOKEN) in {header for _, header in hub.asked}
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert not kept
    assert TOKEN not in done.stdout + done.stderr


def test_nothing_is_sent_unasked(hub: Hub, tmp_path: Path) -> None:
    assert export(hub, tmp_path, "--names", "run").returncode == 0
    assert hub.asked == []


@pytest.mark.parametrize(
    ("words", "token", "said"),
    [
        (("--names", "run", "--upload", "me/mine"), None, "no token"),
        (("--names", "run", "--upload", "me/not a name"), TOKEN, "me/not a name"),
        (("--upload", "me/mine"), TOKEN, "--names run"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_before_anything_is_written(
    hub: Hub, tmp_path: Path, words: tuple[str, ...], token: str | None, said: str
) -> None:
    done = export(hub, tmp_path, *words, token=token)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()
    assert hub.asked == []


def test_a_hub_that_refuses_leaves_the_folder_and_no_secret(hub: Hub, tmp_path: Path) -> None:
    hub.refuse = True
    done = export(hub, tmp_path, "--names", "run", "--upload", "me/mine")
    assert done.returncode == 2
    assert "hf upload me/mine" in done.stderr.splitlines()[-1]
    assert TOKEN not in done.stdout + done.stderr
    assert (tmp_path / "out/README.md").is_file()
    assert SHOWCASE.is_dir()
