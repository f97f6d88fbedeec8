"""The page of the Python API: what `import hitvideo` gives, by signature and docstring."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import hitvideo
from hitvideo.commands.reference.markdown import block, code, prose, table
from hitvideo.generation.sampling import Sampling

_INTRODUCTION = """\
# Python API

What `import hitvideo` gives. The import is light: torch is loaded when something is used. [Example](../../README.md#in-python).
"""


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for name in hitvideo.__all__:
        found = getattr(hitvideo, name)
        parts.append(f"\n## {name}\n")
        parts.append(_class(found) if inspect.isclass(found) else _function(name, found))
    parts += ["\n## Settings of `Run.generate`\n", f"\n{prose(Sampling.__doc__)}\n", _fields(Sampling)]
    return "".join(parts)


def _function(name: str, found: Any) -> str:
    return f"\n{block(name + _signature(found))}\n{prose(found.__doc__)}"


def _class(found: type) -> str:
    parts = [f"\n{prose(found.__doc__)}"]
    if is_dataclass(found):
        parts.append(f"\n{_fields(found)}")
    for name, member in vars(found).items():
        if name.startswith("_") and name != "__init__":
            continue
        if inspect.isfunction(member) and (name != "__init__" or (not is_dataclass(found) and member.__doc__)):
            parts.append(f"\n### {found.__name__}.{name}\n{_function(name, member)}")
        elif isinstance(member, property) or type(member).__name__ == "cached_property":
            parts.append(f"\n### {found.__name__}.{name}\n\n{prose(member.__doc__)}")
    return "".join(parts)


def _signature(found: Any) -> str:
    """As it is written: annotations are text, because of `from __future__ import annotations`."""
    return str(inspect.signature(found)).replace("'", "")


def _fields(found: type) -> str:
    docs = dict(_field_docs(found))
    rows = [(code(each.name), code(each.type), docs.get(each.name, "")) for each in fields(found)]
    return table(("field", "type", "meaning"), rows)


def _field_docs(found: type) -> Iterator[tuple[str, str]]:
    """Names of fields and the text under each."""
    (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(found))).body
    assert isinstance(tree, ast.ClassDef)
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        name = field.target if isinstance(field, ast.AnnAssign) else None
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if isinstance(name, ast.Name) and isinstance(text, str):
            yield name.id, text
