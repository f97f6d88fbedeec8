"""Tars as other people write them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo.data.video_shards import ShardListing, read, scan
from hitvideo.errors import VideoError
from hitvideo.video.encode import encode_mp4

MP4 = encode_mp4(np.full((2, 16, 16, 3), 90, np.uint8), 8)
JSON = b'{"caption": "a"}'


def tar_of(path: Path, *members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar; lone surrogates in a name are bytes that are not UTF-8."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pair(key: str, **known: Any) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """A video and its JSON; without other fields its caption is the key."""
    return (f"{key}.mp4", MP4), (f"{key}.json", json.dumps(known or {"caption": key}).encode())


def outcome(path: Path) -> dict[str, str]:
    """Key → caption, or `!reason` of a sample that cannot be read."""
    found = {}
    for member in scan(path).samples:
        try:
            found[member.key] = read(path, member).caption
        except VideoError as error:
            found[member.key] = f"!{error.reason}" if str(path) in str(error) else str(error)
    return found


def counted(listing: ShardListing) -> list[tuple[str, str]]:
    """What is bad, sorted."""
    return sorted(listing.bad)
