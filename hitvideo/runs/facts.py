"""What is true of one start and is in no setting: the commit, the versions, the machine."""

from __future__ import annotations

import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hitvideo.config import fingerprint
from hitvideo.files import read_json, sha256

_PACKAGES = ("hitvideo", "torch", "deepspeed", "megatron-core", "flash-attn", "mlflow")
_GIT_SECONDS = 5.0
_HERE = Path(__file__).resolve().parents[2]
_BUILT_FROM = Path(__file__).resolve().parents[1] / "commit.json"  # in a wheel


def facts_of_this_start() -> dict[str, Any]:
    """Host, Python, versions of the packages that decide numbers and speed, and the commit of this checkout, if it is one."""
    facts: dict[str, Any] = {"host": socket.gethostname(), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts | _commit()


def lpips_digest(folder: Path) -> str | None:
    """Identifies the files of LPIPS's weights (hitvideo/metrics/lpips.py), wherever they are; None if they are missing."""
    from hitvideo.metrics.lpips import HEADS_FILE, TRUNK_FILE  # imports torch

    files = [folder / name for name in (TRUNK_FILE, HEADS_FILE)]
    return fingerprint(*(sha256(file) for file in files)) if all(file.is_file() for file in files) else None


def _commit() -> dict[str, Any]:
    """The commit, and whether tracked files differ from it; of a wheel, those it was built from. Empty if nothing says so."""
    if not (_HERE / ".git").exists():
        return read_json(_BUILT_FROM, "commit of the wheel") if _BUILT_FROM.is_file() else {}
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": head, "git_dirty": bool(changes)} if head and changes is not None else {}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_HERE), *words], capture_output=True, text=True, check=True, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
