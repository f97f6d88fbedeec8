"""Writes docs/reference/, whose pages are made from the code: python -m hitvideo.commands.reference docs/reference."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from hitvideo.commands.reference import command_line, configuration, metrics, python_api, runs, versions
from hitvideo.files import replace_file
from hitvideo.runs.program import guarded

PAGES: dict[str, Callable[[], str]] = {
    "command-line.md": command_line.page,
    "configuration.md": configuration.page,
    "exit-codes.md": runs.exit_codes,
    "metrics.md": metrics.page,
    "python-api.md": python_api.page,
    "run-directory.md": runs.directory,
    "versions.md": versions.page,
}
_NOTE = "<!-- Made from the code by `make reference`; do not edit. -->"


def text(name: str) -> str:
    """A page as it is written."""
    return f"{_NOTE}\n{PAGES[name]().strip()}\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m hitvideo.commands.reference", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pages are written")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        replace_file(folder / name, text(name))
        print(folder / name)


if __name__ == "__main__":
    guarded(main)
