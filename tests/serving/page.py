"""A real server of the page in a thread, on a run that was not trained, and a client that sends what it likes."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hitvideo.generation.generator import Generator
from hitvideo.serving.server import PageServer, listen

PROMPT = {"prompt": "a red thing", "temperature": 1.0}


class Client:
    """Asks a server; every answer is (status, headers, body)."""

    def __init__(self, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, content: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and parsed JSON."""
        body = None if content is None else json.dumps(content).encode()
        status, _, answer = self.raw(method, path, body, headers)
        return status, json.loads(answer)

    def ended(self, ticket: dict[str, Any]) -> dict[str, Any]:
        """A ticket when it has ended."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            status, now = self.ask("GET", f"/tickets/{ticket['id']}")
            assert status == 200
            if now["state"] not in ("waiting", "running"):
                return dict(now)
            time.sleep(0.02)
        raise AssertionError(f"did not end: {now}")

    def done(self, path: str, content: Any) -> dict[str, Any]:
        """What became of a ticket that is done."""
        status, ticket = self.ask("POST", path, content)
        assert status == 202, ticket
        ended = self.ended(ticket)
        assert ended["state"] == "done", ended
        return ended


@contextmanager
def served(generator: Generator, host: str = "127.0.0.1") -> Iterator[tuple[PageServer, Client]]:
    listener = listen(host, 0)
    server = PageServer(generator, "tiny", host, listener)
    thread = threading.Thread(target=server.run, daemon=True)
    port = listener.getsockname()[1]
    thread.start()
    try:
        yield server, Client(port)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive(), "the server ends"
