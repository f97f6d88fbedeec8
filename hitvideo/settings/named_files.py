"""Files named on a command line and in `base`: the YAML files that ship, and what may not be written to.

Light, because every command reads it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hitvideo.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = "yaml_configs"


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
    if path.exists():
        return path
    return _shipped(path) or path


def base_file(path: Path, base: str) -> Path:
    """The file that `base` of the YAML at `path` names: as seen from that YAML's folder, else by the name of one that ships.

    Raises ConfigError if there is neither.
    """
    beside = path.parent / base
    found = beside if beside.is_file() else _shipped(Path(base))
    if found is None:
        raise ConfigError(
            f"{path}: 'base': {beside}: no such file, and none of the name {base} ships; paths in 'base' are relative to the "
            f"file that names them; `hitvideo config --list` names the files that ship, such as parts/cluster/h100.yaml"
        )
    return found


def _shipped(path: Path) -> Path | None:
    """A file that ships, by its name, with or without the name of their folder."""
    if path.is_absolute() or ".." in path.parts:
        return None
    found = shipped_configs() / (path.relative_to(CONFIGS) if path.parts[:1] == (CONFIGS,) else path)
    return found if found.is_file() else None


def refuse_url(text: str) -> None:
    """Raise ConfigError for a URL (s3://…, or s3:/… as pathlib shortens it) where something is written."""
    if found := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/+", text):
        raise ConfigError(f"{found[0]}… is a URL, and this is written to: give a path on a disk that is mounted here")
