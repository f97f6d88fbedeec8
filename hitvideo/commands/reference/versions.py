"""The page of supported versions, from pyproject.toml and constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from hitvideo.commands.reference.markdown import code, table

_ROOT = Path(__file__).resolve().parents[3]
_EXTRAS = ("parquet", "page", "upload", "ray", "flash")
_ABOUT = """\
# Versions

`make test` uses the versions of `constraints.txt`, which are tested together; `make test-versions` runs the quick tests with
the lowest that are declared, and with the newest there are, each in an environment of its own. An upper end is declared only
where one is known not to work. The extras `flash` and `ray` are in neither: the first builds on a GPU machine, the second is
large.

"""


def page() -> str:
    """A row for each package that is needed, and for those of each extra."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {_key(name): version for name, equals, version in (line.partition("==") for line in lines) if equals}
    rows = [("Python", code(project["requires-python"]), "3.11", "")]
    for extra in (None, *_EXTRAS):
        for requirement in project["optional-dependencies"][extra] if extra else project["dependencies"]:
            name, declared = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?(.*)", requirement).groups()  # type: ignore[union-attr]
            rows.append((code(name), code(declared), tested.get(_key(name), "–"), code(f"hitvideo[{extra}]") if extra else ""))
    return _ABOUT + table(("package", "declared", "tested together", "extra"), rows)


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
