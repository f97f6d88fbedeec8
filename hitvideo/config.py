"""The config mechanism: YAML files → frozen typed models, with base files, strict keys and `section.key=value` overrides.

A run file is plain YAML. The files in `base: [files]` are merged first, in order, then the file itself, then the command
line's overrides. Mappings merge key by key; everything else, including lists, is replaced. An unknown key is an error that
names the nearest known key. Validation never changes a value: derived values are computed by the code that needs them.

    run = load("yaml_configs/pretrain/tiny.yaml", ["train.steps=20", "parallel.tensor=2"])

The typed sections are in `hitvideo/settings/`; this file contains only the mechanism.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hitvideo.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


class Section(BaseModel):
    """A frozen group of settings. It rejects unknown keys; the string under a field documents it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `3e-4` as a number (YAML 1.1 requires `3.0e-4`) and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key_node, deep=True) for key_node, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise ConfigError(f"line {node.value[index][0].start_mark.line + 1}: the key '{key}' appears twice; keep one")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


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


def parse_value(text: str) -> Any:
    """Parse a YAML value from the command line: `8`, `3e-4`, `true`, `null`, `[1, 2]`, or a plain string."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value '{text}': {error}") from error


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read the mapping in one YAML file without following `base`. Raises ConfigError naming the file."""
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a config must be a mapping of keys, but this file contains a {type(content).__name__}")
    return _renamed(content, str(path))


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` into a copy of `under`: mappings merge key by key, everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def resolve(path: Path | str, _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file and merge its bases under it. Base paths are relative to the file that names them."""
    path = Path(path)
    if path.resolve() in _chain:
        raise ConfigError(f"{path}: base files include each other: {' -> '.join(str(p) for p in (*_chain, path))}")
    content = read_yaml(path)
    bases = content.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: 'base' must be a list of file names, got {bases!r}")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, resolve(path.parent / base, (*_chain, path.resolve())))
    return merge(merged, content)


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Merge `section.key=value` words into a copy of a mapping. Raises ConfigError if a word is not an override."""
    result = dict(content)
    for word in overrides:
        dotted, equals, text = word.partition("=")
        if not equals or not dotted or any(not part for part in dotted.split(".")):
            raise ConfigError(f"'{word}' is not an override; write section.key=value, as in train.steps=100")
        nested: Any = parse_value(text)
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        result = merge(result, _renamed(nested, word))
    return result


def build(model: type[ModelT], content: Mapping[str, Any], source: str) -> ModelT:
    """Validate a mapping into a model. Raises ConfigError with one line per error, naming `source` and the key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_explain(model, fault) for fault in error.errors()]
        raise ConfigError(f"{source}: " + f"\n{source}: ".join(lines)) from None


def _explain(model: type[BaseModel], fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
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
    return f"'{dotted}': {message}" + (f" (got {fault['input']!r})" if not isinstance(fault["input"], dict) else "")


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


def to_yaml(config: BaseModel) -> str:
    """The model as YAML; reading it back gives an equal model."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)


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
Positive: TypeAlias = Annotated[int, Field(gt=0)]
