"""The page of the command line: every command of `hitvideo`, and what the three programs take."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from hitvideo.commands.cli import parser
from hitvideo.commands.reference.markdown import block, code, table

PROGRAMS = ("pretrain.video_tokenizer", "tokenize_shards.__main__", "pretrain.language_model")
_INTRODUCTION = """\
# Command line

Every command has `--help`, which says the same. `RUN.yaml` is a file, or the name of one that ships (`hitvideo config --list`).
[Exit codes](exit-codes.md) are those of all commands.
"""

Command: TypeAlias = tuple[tuple[str, ...], argparse.ArgumentParser]


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "\n## Programs that train and tokenize\n"]
    for program in PROGRAMS:
        parts.append(f"\n{block(docstring(program))}")
    parts.append("\n## hitvideo\n")
    for words, each in commands(parser()):
        parts.append(f"\n### hitvideo {' '.join(words)}\n\n{each.description}\n\n")
        parts.append(f"`{_usage(words, each)}`\n")
        if rows := [(code(_name(action)), _meaning(action)) for action in _shown(each)]:
            parts.append("\n" + table(("argument", "meaning"), rows))
    return "".join(parts)


def commands(p: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command, as it is typed, with its parser; not the groups of commands."""
    groups = [action for action in p._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for name, each in group.choices.items():
            yield from commands(each, (*words, name))
    if not groups:
        yield words, p


def docstring(module: str) -> str:
    """A module's docstring, without importing it: these programs take seconds to load."""
    spec = find_spec(module)
    assert spec
    assert spec.origin
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def _shown(p: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in p._actions if not isinstance(action, argparse._HelpAction)]


def _usage(words: tuple[str, ...], p: argparse.ArgumentParser) -> str:
    """The command with its positional arguments and its required options."""
    parts = ["hitvideo", *words]
    for action in _shown(p):
        if not action.option_strings:
            text = _value(action)
            parts.append({"?": f"[{text}]", "*": f"[{text} …]", "+": f"{text} …"}.get(str(action.nargs), text))
        elif action.required:
            parts.append(_name(action))
    return " ".join(parts)


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return _value(action)
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return f"{', '.join(action.option_strings)}{value}{' …' if action.nargs in ('+', '*') else ''}"


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def _meaning(action: argparse.Action) -> str:
    """The help, with what it does not say: that it is required, or a default."""
    text = action.help or ""
    if action.required and action.option_strings:
        return f"{text}; required"
    default = action.default
    if action.option_strings and default not in (None, False, [], argparse.SUPPRESS) and "default" not in text:
        return f"{text}; default {default}" if text else f"default {default}"
    return text
