"""Commands about the package itself: its version, the YAML files that ship with it, completions of a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from hitvideo.commands.common import path
from hitvideo.settings.named_files import yaml_file

SHELLS = ("bash", "zsh", "fish")


class Version(argparse.Action):
    """`--version`: computed only if it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(version_text())
        parser.exit()


def version_text() -> str:
    """Name and version, with the commit of the checkout, or of the wheel, where that is known."""
    from importlib.metadata import version

    from hitvideo.runs.facts import facts_of_this_start

    facts = facts_of_this_start()
    text = f"hitvideo {version('hitvideo')}"
    if "git_commit" in facts:
        text += f" (commit {facts['git_commit'][:12]}{', changed' if facts['git_dirty'] else ''})"
    return text


def list_configs() -> None:
    """Print the YAML files that ship, runs before parts, with the program that runs each and its first sentence."""
    from hitvideo.settings.explain import shipped

    found = shipped()
    width, kind = (max(len(each[k]) for each in found) for k in (0, 1))
    for each in found:
        print(f"{each.name:{width}}  {each.program:{kind}}  {each.about}")


def completions(words: argparse.Namespace) -> None:
    """Print a shell's script that completes commands, options and files."""
    import shtab

    top: argparse.ArgumentParser = words.whole
    for action in _actions(top):
        if action.type in (path, yaml_file):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(top, words.shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in dict.fromkeys(action.choices.values()):
                yield from _actions(each)
