"""Texts of settings in which `~`, `$NAME` and `${NAME}` are filled in: paths, names, URLs. And the YAML files that ship."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from hitvideo.errors import ConfigError, short

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = "yaml_configs"


def expanded(text: str) -> str:
    """A text with `~`, `$NAME` and `${NAME}` filled in. Raises ConfigError if that fails."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            raise ConfigError(f"${name} is not set in the environment; set it, or write its value")
        return os.environ[name]

    filled = re.sub(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", value, text)
    if found := re.search(r"\$[({]", filled):
        raise ConfigError(f"'{found[0]}' starts nothing that is filled in here; write $NAME, ${{NAME}} or the value itself")
    filled = os.path.expanduser(filled)
    if filled.startswith("~"):
        raise ConfigError(f"{short(filled.partition('/')[0])} is not a user with a home; write ./~ for a file of that name")
    return filled


def shipped_configs() -> Path:
    """The folder of YAML files that ship: inside an installed package, next to the package in a checkout."""
    installed = _PACKAGE / CONFIGS
    return installed if installed.is_dir() else _PACKAGE.parent / CONFIGS


def yaml_file(text: str) -> Path:
    """A YAML by its path or, if no such file is here, by the name of one that ships.

    So `pretrain/7b.yaml` and `yaml_configs/pretrain/7b.yaml` are found from any folder. `~` is filled in, which shells leave
    as it is in --option=~/x.
    """
    path = Path(os.path.expanduser(text))
    if path.exists() or path.is_absolute() or ".." in path.parts:
        return path
    shipped = shipped_configs() / (path.relative_to(CONFIGS) if path.parts[:1] == (CONFIGS,) else path)
    return shipped if shipped.is_file() else path


def refuse_url(text: str) -> None:
    """Raise ConfigError for a URL (s3://…, or s3:/… as pathlib shortens it) where something is written."""
    if found := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/+", text):
        raise ConfigError(f"{found[0]}… is a URL, and this is written to: give a path on a disk that is mounted here")


def _local(text: str) -> str:
    refuse_url(text)
    return expanded(text)


Expanded: TypeAlias = Annotated[str, AfterValidator(expanded)]
OutputPath: TypeAlias = Annotated[str, AfterValidator(_local)]
