"""The pages of the documentation, their code blocks, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

WRITTEN = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*WRITTEN, ROOT / "experiments/RESULTS.md"]
_FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (.*?) -->\n$")


@dataclass(frozen=True)
class Block:
    """A fenced block. `mark` is the comment in the line above: "run", "file: NAME", "skip: REASON", …"""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{named(self.page)}:{self.line}"


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """A page's fenced blocks, of one language or of all."""
    text = page.read_text()
    found = []
    for each in _FENCE.finditer(text):
        mark = _MARK.search(text[: each.start()])
        line = text.count("\n", 0, each.start()) + 1
        found.append(Block(page, line, each[2], each[3], mark[1] if mark else ""))
    return [block for block in found if language in (None, block.language)]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def spans(page: Path) -> Iterator[str]:
    """Inline code, each as one line."""
    for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page)):
        yield " ".join(found.replace(r"\|", "|").split())


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures that are not on the web."""
    found: list[str] = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What `PAGE#…` can name: its headings as a forge writes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}
