"""Prints the lowest version of each package that pyproject.toml allows, as constraints of pip: `make test-lowest`.

Those of the extras `flash` and `ray` are left out: the one builds on a GPU machine, the other is installed by hand.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

EXTRAS = ("parquet", "page", "upload", "dev")


def pins(project: dict[str, object]) -> Iterator[str]:
    """`name==version` of every requirement `name>=version`."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    for requirement in [*project["dependencies"], *(each for extra in EXTRAS for each in extras[extra])]:  # type: ignore[misc]
        if found := re.match(r"([\w.-]+)>=([\w.]+)", requirement):
            yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(pins(tomllib.loads(text)["project"])))
