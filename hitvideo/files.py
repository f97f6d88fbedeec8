"""Files that appear complete or not at all, checksums, locks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError


def process_name() -> str:
    """HOST-PID: names this process among all that share a file system. Temporary files end in it."""
    return f"{socket.gethostname()}-{os.getpid()}"


@contextmanager
def replacing(path: Path, synced: bool = True) -> Iterator[Path]:
    """A temporary path to write to; on leaving the block the file takes the name `path` by one rename.

    A reader sees the old file or the new one, never a part. If the block raises, the temporary file is removed. The
    folder is made if needed. `synced`:
    the content is on the disk before the rename; False for files that may be lost with the machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{process_name()}")
    try:
        yield temporary
        if synced:
            sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | str, synced: bool = True) -> None:
    """Write a whole file through `replacing`; text is UTF-8."""
    with replacing(path, synced) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def replace_json(path: Path, content: Any, indent: int | None = None) -> None:
    """`replace_file` with JSON."""
    replace_file(path, json.dumps(content, indent=indent))


def write_synced(path: Path, content: bytes) -> None:
    """Write and wait for the disk. Not atomic: for callers that link or rename the file themselves."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError, which calls the file a damaged `what`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged {what}: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: damaged {what}: it must be a JSON object, but is a {type(content).__name__}")
    return content


def json_bytes(content: object) -> bytes:
    """JSON for files whose bytes are compared: keys sorted, indented, UTF-8."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode()


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it ends with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
