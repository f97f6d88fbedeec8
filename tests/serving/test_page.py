"""From a prompt to a video with its settings inside, through a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hitvideo.generation.engine import Request
from hitvideo.generation.generator import Generator
from hitvideo.generation.record import read_record
from hitvideo.generation.sampling import Sampling
from hitvideo.serving.server import policy
from tests.serving.page import PROMPT, Client, served


def test_draft_pick_refine_repeat_and_download(page: Client, generator: Generator, tmp_path: Path) -> None:
    settings = {
        "guidance": [3, 2.5], "temperature": 1, "top_k": 100, "top_p": 0.99, "negative": "green", "plan": "jacobi",
    }  # fmt: skip
    drafts = page.done("/drafts", {"prompt": "a red ⚽ thing", "seed": 7, "drafts": 3, "levels": 2, **settings})
    facts = [(video["seed"], video["levels"], video["whole"]) for video in drafts["videos"]]
    assert facts == [(7, 2, False), (8, 2, False), (9, 2, False)]
    assert drafts["tokens"] == drafts["total"] == generator.tokens(2)
    assert len({video["codes"] for video in drafts["videos"]}) == 3
    chosen = drafts["videos"][1]
    (fine,) = page.done("/refinements", {"video": chosen["id"]})["videos"]
    assert (fine["seed"], fine["levels"], fine["whole"]) == (8, 4, True)
    again = page.done("/repetitions", {"video": fine["id"]})
    assert (again["different"], again["videos"][0]["codes"]) == (0, fine["codes"])
    status, headers, mp4 = page.raw("GET", f"/videos/{fine['id']}.mp4")
    assert (status, headers["content-type"]) == (200, "video/mp4")
    assert headers["content-disposition"] == 'attachment; filename="video-a-red-thing-seed8-levels4.mp4"'
    (tmp_path / "x.mp4").write_bytes(mp4)
    record = read_record(tmp_path / "x.mp4")
    sampling = Sampling(guidance=(3.0, 2.5), temperature=1.0, top_k=100, top_p=0.99, negative="green", plan="jacobi")
    assert (record.prompt, record.seed, record.sampling) == ("a red ⚽ thing", 8, sampling)
    whole = generator.draw([Request(record.prompt, 8)], sampling).records[0]
    assert all(np.array_equal(a, b) for a, b in zip(whole.codes, record.codes, strict=True)), "as all levels at once"
    assert page.ask("POST", "/refinements", {"video": fine["id"]})[0] == 400, "nothing is left to draw"


def test_progress_comes_by_level_with_a_look_at_each(page: Client, generator: Generator) -> None:
    _, ticket = page.ask("POST", "/drafts", {**PROMPT, "drafts": 2, "levels": 4})
    _, other = page.ask("POST", "/drafts", {**PROMPT, "drafts": 1})
    status, headers, body = page.raw("GET", f"/events?ticket={ticket['id']}&ticket={other['id']}")
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    told = [json.loads(line.removeprefix("data: ")) for line in body.decode().split("\n\n") if line]
    mine = [one for one in told if one["id"] == ticket["id"]]
    tokens = [one["tokens"] for one in mine]
    assert tokens == sorted(tokens)
    assert (mine[-1]["state"], mine[-1]["tokens"], mine[-1]["seconds_left"]) == ("done", 180, None)
    assert all(len({video["levels"] for video in one["videos"]}) <= 1 for one in mine)
    looked = [one["videos"][0]["levels"] for one in mine if one["videos"]]
    assert looked == sorted(looked)
    assert {one["id"] for one in told if one["state"] == "done"} == {ticket["id"], other["id"]}, "until both have ended"


def test_a_prompt_that_is_cut_is_said(page: Client) -> None:
    _, fits = page.ask("POST", "/drafts", {**PROMPT, "drafts": 1})
    _, cut = page.ask("POST", "/drafts", {"prompt": "a red thing " * 20, "drafts": 1})
    assert fits["note"] == ""
    assert "is left out, from '" in cut["note"]


def test_places_cancelling_and_a_full_queue(generator: Generator, held: Callable[[], None]) -> None:
    with served(generator) as (_, page):
        _, first = page.ask("POST", "/drafts", PROMPT)
        while page.ask("GET", f"/tickets/{first['id']}")[1]["state"] == "waiting":
            pass
        waiting = [page.ask("POST", "/drafts", {**PROMPT, "drafts": 1}) for _ in range(50)]
        codes = [status for status, _ in waiting]
        assert codes == [202] * 16 + [429] * 34
        assert [ticket["ahead"] for _, ticket in waiting[:16]] == list(range(1, 17))
        assert "16 others wait" in waiting[16][1]["error"]
        assert page.ask("DELETE", f"/tickets/{waiting[0][1]['id']}")[1]["state"] == "cancelled"
        assert page.ask("GET", f"/tickets/{waiting[1][1]['id']}")[1]["ahead"] == 1
        assert page.ask("POST", "/drafts", PROMPT)[0] == 202, "there is room again"
        assert page.ask("DELETE", f"/tickets/{first['id']}")[1]["state"] == "running", "until the end of the pass"
        held()
        ended = [page.ended(ticket) for ticket in (first, waiting[1][1], waiting[15][1])]
        assert [one["state"] for one in ended] == ["cancelled", "done", "done"]
        assert ended[0]["tokens"] < ended[0]["total"]
        assert page.ask("DELETE", f"/tickets/{ended[1]['id']}")[1]["state"] == "done", "too late"


def test_the_same_may_be_asked_for_by_several(page: Client) -> None:
    draft = page.done("/drafts", {**PROMPT, "drafts": 1})["videos"][0]["id"]
    tickets = [page.ask("POST", "/refinements", {"video": draft})[1] for _ in range(5)]
    page.ask("DELETE", f"/tickets/{tickets[4]['id']}")
    ended = [page.ended(ticket) for ticket in tickets]
    assert [one["state"] for one in ended] == ["done"] * 4 + ["cancelled"]
    assert len({one["videos"][0]["codes"] for one in ended[:4]}) == 1


def test_a_server_that_stops_does_not_wait_for_its_queue(generator: Generator, held: Callable[[], None]) -> None:
    with served(generator) as (server, page):
        names = [page.ask("POST", "/drafts", {**PROMPT, "levels": 4})[1]["id"] for _ in range(3)]
        held()
    tickets = [server.desk.get(name) for name in names]
    assert sum(ticket.state == "done" for ticket in tickets if ticket) < 3


def test_what_goes_wrong_is_one_ticket_and_says_nothing_of_the_inside(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with served(generator) as (_, page):
        with monkeypatch.context() as broken:
            broken.setattr(Generator, "decode", None)
            ended = page.ended(page.ask("POST", "/drafts", PROMPT)[1])
        assert ended["state"] == "failed"
        assert "TypeError" not in json.dumps(ended)
        assert "TypeError" in caplog.text, "the log has it"
        assert page.done("/drafts", PROMPT)["videos"]


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.inline: list[str] = []
        self.open: list[str] = []
        self.labelled = 0
        self.inputs: list[dict[str, str | None]] = []
        self.labels: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [name for name in [found.get("id")] if name]
        self.outside += [value for name, value in attrs if name in ("src", "href") and value and value != "data:,"]
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag in ("input", "select", "textarea"):
            self.inputs.append({**found, "labelled": "label" if "label" in self.open else None})
        if tag == "label" and found.get("for"):
            self.labels.add(str(found["for"]))
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_html_is_whole_and_loads_nothing_from_elsewhere(page: Client) -> None:
    status, headers, body = page.raw("GET", "/")
    text = body.decode()
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    parsed = Page()
    parsed.feed(text)
    assert not parsed.open, "every tag is closed"
    assert not parsed.outside
    assert not parsed.inline, "the policy would block them"
    assert len(parsed.ids) == len(set(parsed.ids))
    assert set(re.findall(r"""\$\("([\w-]+)"\)""", text)) <= set(parsed.ids)
    assert all(one["labelled"] or one["id"] in parsed.labels for one in parsed.inputs)
    assert headers["content-security-policy"] == policy(text)
    assert policy(text).count("sha256-") == 2
    assert "innerHTML" not in text


def test_what_the_page_is_told_of_the_run(page: Client) -> None:
    status, about = page.ask("GET", "/about")
    assert (status, about["run"]) == (200, "tiny")
    assert [level["tokens"] for level in about["levels"]] == [4, 16, 32, 128]
    assert about["clip"] == {"frames": 8, "height": 32, "width": 32, "fps": 8}
    assert about["plans"] == ["auto", "sequential", "jacobi"], "this run has no llm.groups"
    defaults = Sampling()
    assert about["defaults"] == {name: getattr(defaults, name) for name in about["defaults"]}
