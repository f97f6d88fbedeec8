"""What is sent to the page to harm it is refused in a few words, and the server lives on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hitvideo.errors import ConfigError
from hitvideo.generation.generator import Generator
from hitvideo.serving.server import listen
from tests.serving.page import PROMPT, Client, served

NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _alive(page: Client) -> Iterator[None]:
    yield
    assert page.ask("GET", "/about")[0] == 200


def refused(answer: tuple[int, dict[str, str], bytes], *statuses: int) -> str:
    """The error's text."""
    status, headers, body = answer
    assert status in statuses, (status, body[:300])
    assert headers["content-type"] == "application/json"
    assert "access-control-allow-origin" not in headers
    error = str(json.loads(body)["error"])
    assert 0 < len(error) < 600
    assert not any(word in error for word in ("Traceback", ".py", "site-packages"))
    return error


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"guidance": NAN}, "guidance"), ({"guidance": [3.0, INFINITY]}, "guidance"), ({"guidance": -1}, "guidance"),
        ({"guidance": "3"}, "guidance"), ({"guidance": []}, "guidance"), ({"guidance": [1.0] * 65}, "guidance"),
        ({"temperature": 1e-9}, "temperature"), ({"temperature": True}, "temperature"), ({"top_k": 1.5}, "top_k"),
        ({"top_k": -1}, "top-k"), ({"top_p": 0}, "top-p"), ({"top_p": 1.01}, "top-p"),
        ({"seed": -1}, "seed"), ({"seed": 1 << 60}, "seed"), ({"seed": 10**400}, "seed"), ({"seed": 0.5}, "seed"),
        ({"drafts": 0}, "drafts"), ({"drafts": 9}, "drafts"), ({"drafts": 10**9}, "drafts"),
        ({"levels": 0}, "levels"), ({"levels": 5}, "levels"), ({"levels": "1"}, "levels"),
        ({"prompt": ""}, "prompt"), ({"prompt": 3}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": "x" * 2001}, "prompt"),
        ({"negative": "x" * 2001}, "negative"),
        ({"plan": "fast"}, "plan"), ({"plan": ["auto"]}, "plan"), ({"plan": "grouped"}, "llm.groups"),
        ({"x" * 5000: 1}, "xxx"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_settings_out_of_range(page: Client, changed: dict[str, Any], named: str) -> None:
    body = json.dumps({**PROMPT, **changed}).encode()
    assert named in refused(page.raw("POST", "/drafts", body), 400)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000, b'{"prompt": "\\ud800"}', b'{"prompt": "a"} x', b"1e999"],
    ids=str,
)
def test_bodies_that_are_no_form(page: Client, body: bytes) -> None:
    for path in ("/drafts", "/refinements", "/repetitions"):
        refused(page.raw("POST", path, body[:12_000]), 400)


@pytest.mark.parametrize("size", [17_000, 100_000, 3_000_000])
def test_a_prompt_that_is_too_large(page: Client, size: int) -> None:
    body = json.dumps({"prompt": "x" * size}).encode()
    assert "bytes" in refused(page.raw("POST", "/drafts", body), 413)
    chunked = page.raw("POST", "/drafts", iter([body]))  # type: ignore[arg-type]
    assert "bytes" in refused(chunked, 413)


def test_a_body_without_end_is_cut_off(page: Client) -> None:
    with socket.create_connection(("127.0.0.1", page.port), 30) as sent:
        sent.sendall(f"POST /drafts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            sent.sendall(bytes(64 << 20))


IDS = ["..", "../about", "..%2f..%2fetc%2fpasswd", "%2e%2e/", "a" * 5000, "%00", "None", "-1", "__class__", "%F0%9F%98%80"]


@pytest.mark.parametrize("name", IDS, ids=lambda name: name[:20])
def test_ids_are_no_paths(page: Client, name: str) -> None:
    for path in (f"/videos/{name}.mp4", f"/tickets/{name}", f"/events?ticket={name}", f"/videos/../../{name}"):
        refused(page.raw("GET", path), 404)
    for path in ("/refinements", "/repetitions"):
        refused(page.raw("POST", path, json.dumps({"video": name}).encode()), 404, 400)


HOSTS = ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "a@127.0.0.1", "localhost.evil", "x" * 3000, "[::1"]


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host[:25])
def test_foreign_hosts(page: Client, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/about"), ("POST", "/drafts")):
        assert "Host" in refused(page.raw(method, path, b"{}", {"host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1", "[::1]:8000", "10.1.2.3"])
def test_own_hosts_also_through_a_forwarded_port(page: Client, host: str) -> None:
    assert page.raw("GET", "/about", None, {"host": host})[0] == 200
    assert page.raw("POST", "/drafts", b"{}", {"host": host, "origin": f"http://{host}"})[0] == 400


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "file://", ""])
def test_foreign_origins(page: Client, origin: str) -> None:
    ticket = page.done("/drafts", {**PROMPT, "drafts": 1})["id"]
    for method, path in (("POST", "/drafts"), ("POST", "/repetitions"), ("DELETE", f"/tickets/{ticket}")):
        assert "Origin" in refused(page.raw(method, path, b"{}", {"origin": origin}), 403)


def test_every_answer_has_the_headers_that_protect_it(page: Client) -> None:
    asked = [("GET", path) for path in ("/", "/about", "/absent", "/docs", "/openapi.json")] + [("PUT", "/drafts")]
    answers = [page.raw(*each) for each in asked] + [page.raw("GET", "/", None, {"host": "evil.example"})]
    assert [status for status, _, _ in answers] == [200, 200, 404, 404, 404, 405, 403]
    for _, headers, _ in answers:
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not headers.keys() & {"access-control-allow-origin", "server"}


def test_fifty_clients_at_once(page: Client) -> None:
    def ask(number: int) -> tuple[int, Any]:
        return page.ask("POST", "/drafts", {**PROMPT, "seed": number, "drafts": 1})

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(ask, range(50)))
    taken = [ticket for status, ticket in answers if status == 202]
    assert len(taken) >= 16
    assert {status for status, _ in answers} <= {202, 429}
    ended = [page.ended(ticket) for ticket in taken]
    assert {ticket["state"] for ticket in ended} == {"done"}
    assert len({ticket["videos"][0]["codes"] for ticket in ended}) > 1


def test_garbage_on_the_line(page: Client) -> None:
    for line in (b"\x16\x03\x01\x02\x00\x01\xfc\x03", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n" * 3 + b"\r\n"):
        with socket.create_connection(("127.0.0.1", page.port), 10) as sent:
            sent.sendall(line)
            sent.shutdown(socket.SHUT_WR)
            assert not sent.recv(100).startswith(b"HTTP/1.1 2")


def test_other_addresses_ask_for_a_token(generator: Generator) -> None:
    with served(generator, "0.0.0.0") as (server, page):
        token = server.url.partition("?token=")[2]
        assert len(token) >= 20
        for headers in ({}, {"cookie": "hitvideo=wrong"}, {"cookie": "hitvideo="}, {"cookie": "=;;\x01"}):
            refused(page.raw("GET", "/about", None, headers), 401)
            refused(page.raw("POST", "/drafts", b"{}", headers), 401)
        refused(page.raw("GET", "/?token=wrong"), 401)
        refused(page.raw("GET", f"/about?token={token}"), 401)
        status, headers, _ = page.raw("GET", f"/?token={token}")
        assert (status, headers["location"]) == (303, "/")
        cookie, *flags = headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict"} <= set(flags)
        assert page.raw("GET", "/", None, {"cookie": cookie})[0] == 200
        assert page.raw("GET", "/about", None, {"cookie": f"other=1; {cookie}"})[0] == 200


def test_on_this_machine_there_is_no_token(generator: Generator) -> None:
    with served(generator) as (server, page):
        assert server.url == f"{page.url}/"


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", None), ("127.0.0.1", 70_000), ("8.8.8.8", 0)])
def test_addresses_that_cannot_be_taken(page: Client, host: str, port: int | None) -> None:
    with pytest.raises(ConfigError, match=r"--host .* --port .*cannot be taken"):
        listen(host, page.port if port is None else port)
