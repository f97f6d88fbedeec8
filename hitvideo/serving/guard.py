"""Who may talk to the page, and what every answer says to the browser. Plain ASGI, around everything else.

A page on localhost is within reach of every web site that its user visits. A site whose name is made to point to this machine
(DNS rebinding) is known by the header Host, and a form or script of another site by the header Origin.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qs

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
COOKIE = "hitvideo"
HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Refuses foreign hosts and origins and, where a token is asked for, everybody without it."""

    def __init__(self, app: App, hosts: Iterable[str], policy: str, token: str | None) -> None:
        """`hosts`: names, without ports, under which the page is reached; numeric addresses are always taken.

        `policy`: the Content-Security-Policy. `token`: once in the address, afterwards in a cookie.
        """
        self._app, self._hosts, self._token = app, frozenset(hosts), token
        self._headers = [
            (name.encode(), text.encode()) for name, text in (HEADERS | {"content-security-policy": policy}).items()
        ]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await _answer(with_headers, *refusal)
        elif self._token and not self._has_cookie(scope):
            if self._has_token(scope):
                cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/".encode()
                await _answer(with_headers, 303, "", [(b"location", b"/"), (b"set-cookie", cookie)])
            else:
                await _answer(with_headers, 401, "open the address that `hitvideo serve` printed, with its token")
        else:
            await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        hosts, origins = _header(scope, b"host"), _header(scope, b"origin")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return 403, "the header Host is not this page's; open the address that `hitvideo serve` printed"
        if scope["method"] not in ("GET", "HEAD") and origins and origins != [f"{_scheme(origins[0])}://{hosts[0]}"]:
            return 403, "the header Origin is not this page's: other sites may not use it"
        return None

    def _is_ours(self, host: str) -> bool:
        parts = HOST.fullmatch(host)
        if not parts or parts["name"] in self._hosts:
            return parts is not None
        try:
            ipaddress.ip_address(parts["name"].strip("[]"))  # an address cannot be made to point elsewhere, as a name can
        except ValueError:
            return False
        return True

    def _has_cookie(self, scope: Message) -> bool:
        for text in _header(scope, b"cookie"):
            try:
                found = SimpleCookie(text).get(COOKIE)
            except CookieError:
                continue
            if found and self._is_token(found.value):
                return True
        return False

    def _has_token(self, scope: Message) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return scope["path"] == "/" and scope["method"] == "GET" and self._is_token(given[0])

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _header(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _scheme(origin: str) -> str:
    """Behind a proxy the page may be reached by https."""
    return "https" if origin.startswith("https://") else "http"


async def _answer(send: Send, status: int, error: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = json.dumps({"error": error}).encode() if error else b""
    length = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*length, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})
