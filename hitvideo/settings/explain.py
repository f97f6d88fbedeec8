"""Every key of a run with its value, its source and its doc, and the runs that ship: `hitvideo config`."""

from __future__ import annotations

import itertools
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hitvideo import config
from hitvideo.settings.named_files import base_file, shipped_configs
from hitvideo.settings.programs import COMMANDS, RUNS

COMMAND_LINE, DEFAULT = "command line", "default"
_WIDTH = 110


class Key(NamedTuple):
    """One setting of a program."""

    dotted: str
    doc: str
    default: Any
    required: bool
    field: FieldInfo


class ShippedYaml(NamedTuple):
    """A YAML file that ships with the package."""

    name: str
    """As every command takes it: pretrain/7b.yaml."""
    program: str
    """That runs it, as `python -m` takes it; empty for a part, which other files name in `base`."""
    about: str
    """What the comment above its settings says first."""


def shipped() -> list[ShippedYaml]:
    """The files that ship, runs before parts."""
    folder, found = shipped_configs(), []
    for path in sorted(folder.rglob("*.yaml")):
        program = COMMANDS.get(str(config.resolve(path).get("program")), "")
        found.append(ShippedYaml(path.relative_to(folder).as_posix(), program, _first_words(path)))
    return sorted(found, key=lambda each: not each.program)


def _first_words(path: Path) -> str:
    comment = itertools.takewhile(lambda line: line.startswith("# "), path.read_text(encoding="utf-8").splitlines())
    return re.split(r"[.;:] ", " ".join(line.removeprefix("# ") for line in comment))[0].rstrip(".")


def sources(path: Path, overrides: Sequence[str]) -> dict[str, str]:
    """Dotted key → the file that set it last, or the command line. Keys that have their default are left out."""
    found = dict.fromkeys(config.flat(config.apply_overrides({}, overrides)), COMMAND_LINE)
    return {**_file_sources(path), **found}


def _file_sources(path: Path) -> dict[str, str]:
    content = config.read_yaml(path)
    bases = content.pop("base", [])
    found: dict[str, str] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        found |= _file_sources(Path(os.path.normpath(base_file(path, base))))
    return {**found, **dict.fromkeys(config.flat(content), str(path))}


def explain(settings: BaseModel, set_by: dict[str, str]) -> str:
    """The resolved YAML with every key's doc above it and its source after it; reading it gives equal settings."""
    return "\n".join(_explained(settings, set_by, "", "")) + "\n"


def _explained(section: BaseModel, set_by: dict[str, str], prefix: str, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.description:
            lines = textwrap.wrap(" ".join(field.description.split()), _WIDTH - len(indent))
            yield from (f"{indent}# {line}" for line in lines)
        if isinstance(value, BaseModel):
            doc = " ".join((type(value).__doc__ or "").split("\n\n")[0].split())
            yield f"{indent}{name}:" + (f"  # {doc}" if doc and not field.description else "")
            yield from _explained(value, set_by, f"{prefix}{name}.", indent + "  ")
        else:
            plain = section.model_dump(mode="json", include={name})[name]
            text = yaml.safe_dump(plain, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()
            yield f"{indent}{name}: {text}  # {_source(f'{prefix}{name}', set_by)}"


def _source(dotted: str, set_by: dict[str, str]) -> str:
    """A key's source; a mapping given whole counts for what is inside it."""
    inside = [source for key, source in set_by.items() if key == dotted or key.startswith(f"{dotted}.")]
    return inside[-1] if inside else DEFAULT


def find(word: str) -> dict[str, list[Key]]:
    """Program → its keys whose name or doc holds the word, in any case."""
    return {
        COMMANDS[program]: [key for key in keys(model) if word.lower() in f"{key.dotted} {key.doc}".lower()]
        for program, model in RUNS.items()
    }


def keys(model: type[BaseModel], instance: BaseModel | None = None, prefix: str = "") -> Iterator[Key]:
    """The keys of a run or a section. `instance`: what it is by default, if not what its class says; dotted names begin with
    `prefix`.
    """
    for name, field in model.model_fields.items():
        kind = field.annotation
        default = getattr(instance, name) if instance else None if field.is_required() else field.default
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, default, f"{prefix}{name}.")
        else:
            required = instance is None and field.is_required()
            yield Key(f"{prefix}{name}", " ".join((field.description or "").split()), default, required, field)
