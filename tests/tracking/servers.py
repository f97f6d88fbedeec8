"""A real MLflow server for tests, and a proxy in front of it that fails as networks and servers do."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """`mlflow server` on a sqlite file; gives its port."""
    port = free_port()
    words = ["server", "--backend-store-uri", f"sqlite:///{folder}/server.db", "--port", str(port), "--workers", "1"]
    words += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "mlflow", *words], stdout=output, stderr=output, cwd=folder)
    try:
        deadline = time.monotonic() + 300  # machines with other work take long
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((folder / "server.log").read_text())
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(30)


class Proxy:
    """Passes requests on to a server, or does not. `fault`: "" (none), "500", "hang" or "lose" (pass on, never answer)."""

    def __init__(self, behind: int, port: int = 0) -> None:
        self.fault = ""
        self.only = ""
        """The fault is that of requests whose path holds this."""
        self.seen: list[str] = []
        """Paths of the requests that met the fault."""
        self._release = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(OSError, http.client.HTTPException):  # the client was killed or has given up
                    super().handle_one_request()
                    return
                self.close_connection = True

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.fault if proxy.only in self.path else ""
                if fault:
                    proxy.seen.append(self.path)
                if fault == "hang":
                    proxy._release.wait(60)
                    self.close_connection = True
                    return
                status, answer, kind = (500, b"out of order", "text/plain") if fault == "500" else self.passed_on(body)
                if fault == "lose":
                    proxy.seen.append("done")
                    proxy._release.wait(60)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def passed_on(self, body: bytes) -> tuple[int, bytes, str]:
                server = http.client.HTTPConnection("127.0.0.1", behind, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
                server.request(self.command, self.path, body, headers)
                answer = server.getresponse()
                return answer.status, answer.read(), answer.headers.get("Content-Type", "application/json")

            def log_message(self, *_words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def heal(self) -> None:
        """Let everything through from now on."""
        self.fault = self.only = ""
        self._release.set()

    def close(self) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()
