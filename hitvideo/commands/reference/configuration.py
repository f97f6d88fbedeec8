"""The page of all settings: every key of the three programs with its type, its default and its meaning."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hitvideo.commands.reference.markdown import code, table
from hitvideo.settings.explain import Key, keys
from hitvideo.settings.programs import COMMANDS, RUNS

_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null", Any: "anything"}
_LARGEST_SHOWN = 1000  # a bound above it only keeps absurd values out
_INTRODUCTION = """\
# Settings

Every key that a YAML file may have, by program and section. The command line takes them as `section.key=value`. A required key
has no default; the files in `yaml_configs/` set it. What can be computed is not a setting: `hitvideo config RUN.yaml` prints
sequence length, parameters and gradient accumulation. `hitvideo config --find WORD` searches this list.

How files are merged, and how values are read: [settings of a run](../how-to/new-size.md#settings-of-a-run).
"""


def page() -> str:
    """The whole page."""
    shown: dict[tuple[type[BaseModel], str], str] = {}
    return _INTRODUCTION + "".join(_program(program, shown) for program in RUNS)


def _program(program: str, shown: dict[tuple[type[BaseModel], str], str]) -> str:
    """A program's sections. One that another program has with the same defaults is a link to it."""
    model, command = RUNS[program], COMMANDS[program]
    parts = [f"\n## python -m {command}\n\n`program: {program}`. {_first_paragraph(model)}\n"]
    for name, field in model.model_fields.items():
        kind = field.annotation
        if name == "program":
            continue
        heading = f"{name} ({program})"
        parts.append(f"\n### {heading}\n")
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            default = None if field.is_required() else field.default
            known = shown.setdefault((kind, str(default)), heading)
            doc = " ".join((field.description or _first_paragraph(kind)).split())
            parts.append(f"\n{doc}\n" if known == heading else f"\nAs [{known}](#{anchor(known)}).\n")
            if known == heading:
                parts.append(_section(list(keys(kind, default, f"{name}."))))
        else:
            parts.append(_section([key for key in keys(model) if key.dotted == name]))
    return "".join(parts)


def anchor(heading: str) -> str:
    """The anchor that a forge gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section(found: Sequence[Key]) -> str:
    rows = [(code(key.dotted), type_text(key.field.annotation, key.field.metadata), _default(key), key.doc) for key in found]
    parts = ["\n", table(("key", "type", "default", "meaning"), rows)]
    for key in found:
        for item in _items(key.field.annotation):
            parts.append(f"\nEach of `{key.dotted}`: {_first_paragraph(item)}\n")
            parts.append(_section(list(keys(item))))
    return "".join(parts)


def _items(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a list, or a key that may be null, holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _items(part)


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _default(key: Key) -> str:
    if key.required:
        return "required"
    plain = key.default.model_dump(mode="json") if isinstance(key.default, BaseModel) else key.default
    if isinstance(plain, tuple):
        plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in plain]
    written = yaml.safe_dump(plain, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()
    return code(written)


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type in words, with its bounds: "whole number > 0", "list of text", "`a` or `b`"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(args[0], [*args[1:], *metadata])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(part, metadata) for part in args))
    if origin is Literal:
        return " or ".join(code(value) for value in args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"list of {type_text(args[0])}"
        return f"{len(args)} × {type_text(args[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return _NAMES[annotation] + ("" if annotation is type(None) else _bounds(metadata))


def _bounds(metadata: Sequence[Any]) -> str:
    """`> 0`, `0 … 1`; nothing for a text's or a list's length."""
    found: dict[str, float] = {}
    for each in metadata:
        for limit in each.metadata if isinstance(each, FieldInfo) else [each]:
            found |= {name: getattr(limit, name) for name in ("gt", "ge", "lt", "le") if getattr(limit, name, None) is not None}
    if found.get("ge", 0) > found.get("gt", math.inf):
        del found["gt"]
    shown = {name: value for name, value in found.items() if abs(value) <= _LARGEST_SHOWN}
    if shown.keys() >= {"ge", "le"}:
        return f" {shown['ge']:g} … {shown['le']:g}"
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return "".join(f" {signs[name]} {value:g}" for name, value in shown.items())
