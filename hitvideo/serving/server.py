"""Serves the page of one run: a socket, the page with its security policy, and the thread that draws."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import secrets
import socket
from importlib.resources import files

import uvicorn

from hitvideo.errors import ConfigError, short
from hitvideo.generation.generator import Generator
from hitvideo.serving.app import build
from hitvideo.serving.desk import Desk
from hitvideo.serving.guard import Guard
from hitvideo.serving.shelf import Shelf
from hitvideo.serving.studio import Studio

MOST_CONNECTIONS = 256
LAST_ANSWERS = 1  # seconds that open answers have when the server stops


class PageServer:
    """The page of a run on a socket that listens. It answers while `run` does."""

    def __init__(self, generator: Generator, run: str, host: str, listener: socket.socket) -> None:
        """`run`: its name. `host`: as given to `listen`; on any but this machine's own address the page asks for a token, which
        is in `url`."""
        self._socket, local = listener, _is_local(host)
        port = listener.getsockname()[1]
        token = None if local else secrets.token_urlsafe(16)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/" + (f"?token={token}" if token else "")
        page = files("hitvideo.serving").joinpath("page.html").read_text(encoding="utf-8")
        studio = Studio(generator, Shelf())
        self.desk = Desk(studio.serve)
        names = {"localhost", host.lower(), *(() if local else (socket.gethostname().lower(), socket.getfqdn().lower()))}
        guarded = Guard(build(studio, self.desk, run, page), names, policy(page), token)
        config = uvicorn.Config(
            guarded, log_level="warning", http="h11", ws="none", server_header=False, limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=LAST_ANSWERS, access_log=False, proxy_headers=False,
        )  # fmt: skip
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Answer until Ctrl-C or `stop`."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self.desk.close()
            self._socket.close()

    def stop(self) -> None:
        """From another thread: end `run`."""
        self._server.should_exit = True


def policy(page: str) -> str:
    """The Content-Security-Policy of a page: its own script and style, known by their hashes, and nothing from elsewhere."""
    script, style = (_hashes(page, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; media-src blob:; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(page: str, tag: str) -> str:
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Take an address; port 0 is a free one. Raises ConfigError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except (OSError, OverflowError) as error:
        text = f"--host {host} --port {port}: cannot be taken ({short(error)}); give another port, or 0 for a free one"
        raise ConfigError(text) from error
