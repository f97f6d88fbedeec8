"""The config mechanism: YAML files → frozen typed models, with base files, strict keys and `section.key=value` overrides.

A run file is plain YAML. The files in `base: [files]` are merged first, in order, then the file itself, then the command
line's overrides. Mappings merge key by key; everything else, including lists, is replaced. An unknown key is an error that
names the nearest known key. YAML and the command line give text, and the type of the field it is for decides how it is read:
`run.name=0012` is "0012", `train.steps=0012` is 12. Validation changes a value only by filling in `~` and `$VAR` in paths;
derived values are computed by the code that needs them. The typed sections are in `hitvideo/settings/`.

    run = load("yaml_configs/pretrain/tiny.yaml", ["train.steps=20", "parallel.tensor=2"])
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hitvideo.errors import ConfigError, short
from hitvideo.settings.named_files import base_file

ModelT = TypeVar("ModelT", bound=BaseModel)


class Section(BaseModel):
    """A frozen group of settings. It rejects unknown keys; the string under a field documents it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        fields = cls.model_fields
        return {key: _read(value, fields[key].annotation) if key in fields else value for key, value in content.items()}


def _read(value: Any, annotation: Any) -> Any:
    """A value for a field of this type: text becomes a list, a mapping or a number, except where the field takes text."""
    if isinstance(value, str) and not _takes_text(annotation):
        value = parse(value)
    return value if _takes_text(annotation, within=True) else _numbers(value)


def _takes_text(annotation: Any, within: bool = False) -> bool:
    """Whether a field of this type may be a text; `within`: or a list that holds some."""
    if get_origin(annotation) is tuple and not within:
        return False
    return annotation is str or any(_takes_text(part, within) for part in get_args(annotation))


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    if isinstance(value, str):
        for number in (int, float):
            with suppress(ValueError):
                return number(value)
    return value


class _Loader(yaml.SafeLoader):
    """Reads mappings, lists, null, and everything else as the text that is written.

    Rejects duplicate keys, and what a few bytes of YAML can grow large with: aliases, and deep nesting.
    """

    deepest = 50
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise ConfigError(f"line {line}: aliases (*name) are not read; write the value, quote a text that starts with *")
        if self.depth == self.deepest:
            raise ConfigError(f"line {line}: nested more than {self.deepest} deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if isinstance(text, str) and (bad := re.search("[\0\ud800-\udfff]", text)):
            raise ConfigError(f"line {node.start_mark.line + 1}: the character {bad[0]!a} is in no name of a file; remove it")
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key_node, deep=True) for key_node, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                line = node.value[index][0].start_mark.line + 1
                raise ConfigError(f"line {line}: the key '{short(key)}' appears twice; keep one")
        return super().construct_mapping(node, deep)


_NULL, *_KINDS = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "str", "seq", "map"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == _NULL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (_NULL, *_KINDS, None)}


def _load(text: str) -> Any:
    """Parse YAML. Raises ConfigError, in one line that names the line of the text."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{line}{error.problem}; quote a text with ': ', or that starts with * & [ {{ % @") from error
    except yaml.YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from error


def parse(text: str) -> Any:
    """The list or mapping that a text is, as in `[1, 2]`; None for `null`, `~` and the empty text; else the text."""
    if text.lstrip()[:1] in ("[", "{"):
        with suppress(ConfigError):
            return _load(text)
    return None if text in ("", "~", "null") else text


RENAMED = {("video",): ("clip",), ("data", "block"): ("data", "read_together")}
"""Former keys and their new names. Both are accepted, in files and on the command line."""


def _renamed(content: dict[str, Any], source: str) -> dict[str, Any]:
    for (*old_parents, old), (*_, new) in RENAMED.items():
        section: Any = content
        for parent in old_parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict) and old in section:
            if new in section:
                raise ConfigError(f"{source}: '{old}' is the old name of '{new}'; keep only '{new}'")
            section[new] = section.pop(old)
    return content


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read the mapping in one YAML file, its scalars as text, without following `base`. Raises ConfigError naming the file."""
    path = Path(path)
    try:
        content = _load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a config must be a mapping of keys, but this file contains a {type(content).__name__}")
    return _renamed(content, str(path))


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` into a copy of `under`: mappings merge key by key, everything else is replaced.

    A text over a mapping may be one, as in `train={steps: 5}` on the command line.
    """
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        value = parse(value) if isinstance(below, Mapping) and isinstance(value, str) else value
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def resolve(path: Path | str, _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file and merge its bases under it. A base is seen from the file that names it, or is one that ships."""
    path = Path(path)
    if path.resolve() in _chain:
        raise ConfigError(f"{path}: base files include each other: {' -> '.join(str(p) for p in (*_chain, path))}")
    content = read_yaml(path)
    bases = content.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: 'base' must be a list of file names, got {short(repr(bases))}")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, resolve(base_file(path, base), (*_chain, path.resolve())))
    return merge(merged, content)


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Merge `section.key=value` words into a copy of a mapping. Raises ConfigError if a word is not an override."""
    result = dict(content)
    for word in overrides:
        dotted, equals, text = word.partition("=")
        if not equals or not dotted or any(not part for part in dotted.split(".")):
            raise ConfigError(f"'{short(word)}' is not an override; write section.key=value, as in train.steps=100")
        nested: Any = _unquoted(text)
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        result = merge(result, _renamed(nested, short(word)))
    return result


def _unquoted(text: str) -> str | None:
    """A value of the command line as it is written, without YAML's quotes around it; None if it is empty or null."""
    if text[:1] in ("'", '"'):
        with suppress(ConfigError):
            inner = _load(text)
            return inner if isinstance(inner, str) else text
    return None if text in ("", "null") else text


_MOST_LINES = 20  # of the errors in one file


def build(model: type[ModelT], content: Mapping[str, Any], source: str) -> ModelT:
    """Validate a mapping into a model. Raises ConfigError with one line per error, naming `source` and the key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        lines = [_explain(model, fault) for fault in faults[:_MOST_LINES]]
        lines += [f"and {len(faults) - _MOST_LINES} more errors"] if len(faults) > _MOST_LINES else []
        raise ConfigError(f"{source}: " + f"\n{source}: ".join(lines)) from None


def _explain(model: type[BaseModel], fault: Any) -> str:
    location = [short(part) for part in fault["loc"]]
    dotted = ".".join(location)
    if fault["type"] == "extra_forbidden":
        known = sorted(_known_keys(model))
        parent = ".".join(location[:-1])
        siblings = [key for key in known if key.rpartition(".")[0] == parent]
        near = difflib.get_close_matches(dotted, siblings, 1, 0.5) or difflib.get_close_matches(dotted, known, 1, 0.5)
        near = near or [key for key in known if key.rpartition(".")[2] == location[-1]][:1]
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(siblings) or 'none'}"
        return f"unknown key '{dotted}'; {hint}"
    if fault["type"] == "missing":
        return f"'{dotted}' is missing; set it in the file or pass {dotted}=VALUE"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    return f"'{dotted}': {message}" + (f" (got {short(repr(fault['input']))})" if not isinstance(fault["input"], dict) else "")


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def needed(value: str | None, key: str) -> str:
    """The value of a required setting. Raises ConfigError if it is empty or null."""
    if not value:
        raise ConfigError(f"'{key}' is not set; set it in the file or pass {key}=PATH")
    return value


def to_yaml(config: BaseModel | Mapping[str, Any]) -> str:
    """The model, or its plain data, as YAML; reading it back gives an equal model."""
    content = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
    return yaml.safe_dump(content, sort_keys=False, width=120)


def flat(config: BaseModel | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and leaf values, in order, as MLflow lists them to compare runs."""
    content = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            leaves.update(flat(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def fingerprint(*parts: BaseModel | Mapping[str, Any] | str) -> str:
    """16 hex digits of the sha256 of the parts' canonical JSON. Equal settings have equal fingerprints."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=1 << 53)]
Positive: TypeAlias = Annotated[int, Field(gt=0, le=1 << 53)]
Size: TypeAlias = Annotated[int, Field(gt=0, le=1 << 20)]
Depth: TypeAlias = Annotated[int, Field(gt=0, le=1 << 12)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]
