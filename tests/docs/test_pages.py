"""The pages: links and anchors lead somewhere, every page is found from the index, the README is short, the words are plain."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.pages import LINKED, WRITTEN, anchors, links, named

LONGEST_README = 200
INDEX = ROOT / "docs/README.md"


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{named(page)}: {target}: no such file"
        assert file.is_relative_to(ROOT), f"{named(page)}: {target} leads out of the repository"
        assert not anchor or anchor in anchors(file), f"{named(page)}: {target}: no such heading"


def test_links_are_seen() -> None:
    assert len(links(ROOT / "README.md")) > 20
    assert "honest-limits" in anchors(ROOT / "README.md")
    assert "loader-python--m-benchmarksloader" in anchors(ROOT / "experiments/RESULTS.md")


def test_every_page_is_found_from_the_index() -> None:
    linked = {(INDEX.parent / target.partition("#")[0]).resolve() for target in links(INDEX)}
    pages = {page for page in WRITTEN if page.is_relative_to(INDEX.parent)} - {INDEX}
    assert pages <= linked, sorted(named(page) for page in pages - linked)


def test_the_readme_is_short_and_leads_to_the_index() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= LONGEST_README
    assert "docs/README.md" in links(ROOT / "README.md")
