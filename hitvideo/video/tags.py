"""The texts that an MP4 keeps besides its pictures."""

from __future__ import annotations

from pathlib import Path

from hitvideo.errors import VideoError
from hitvideo.video.container import opened

LARGEST_FILE = 4 << 30


def read_tags(path: Path) -> dict[str, str]:
    """The container's tags by name. Raises VideoError if it is not a video file that is read here."""
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise VideoError("missing", f"{path}: cannot be opened: {error}") from error
    if size > LARGEST_FILE:
        raise VideoError("too_large", f"{path}: {size} bytes; the limit is {LARGEST_FILE}")
    with opened(path, str(path)) as (container, _):
        return {str(name): str(text) for name, text in container.metadata.items()}
