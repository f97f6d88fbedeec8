"""Reader and writer of video shards, the tars that tokenization and tokenizer training read.

A video shard is a webdataset tar: `KEY.mp4` (or another container, with its extension) and `KEY.json` with the caption,
the source and any other metadata. The webdataset library writes it, and the same samples give the same bytes. It is read
without that library: `scan` walks the headers once and `read` fetches one sample at its offset, so bad samples are named, a
truncated tar is detected, and samples can be read in any order. Videos are copied, not decoded.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from hitvideo.data.remote import Shard, remote_files
from hitvideo.errors import ConfigError, ShardError, VideoError
from hitvideo.files import replacing

VIDEO_EXTENSIONS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mpg", "mpeg", "flv", "ogv", "wmv")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")  # an image is a video of one frame
LARGEST_METADATA = 16 << 20
BLOCK = 512
# As webdataset splits a member's name into key and extension: at the first dot of the last path component.
MEMBER_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")

log = logging.getLogger(__name__)

OnProgress = Callable[[int], object]
"""Called with the number of samples finished since the last call."""


@dataclass(frozen=True)
class VideoSample:
    """One video: its key, the file's bytes, its extension without the dot, and its metadata."""

    key: str
    video: bytes
    extension: str
    metadata: dict[str, Any]
    """`caption`, `source` and any other JSON."""

    @property
    def caption(self) -> str:
        return str(self.metadata["caption"])


class Span(NamedTuple):
    """Offset and size of a member's content in its tar, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class VideoMember:
    """Place of one sample in its shard."""

    key: str
    extension: str
    video: Span
    metadata: Span


@dataclass
class ShardListing:
    """Contents of a video shard: every sample is in `samples` or in `bad`."""

    shard: Shard
    samples: list[VideoMember] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of key (or member name) and reason: bad_name, not_a_file, duplicate, no_video, two_videos, no_metadata."""
    truncated: str | None = None
    """A sentence that describes the damage if the tar is truncated."""


def write_shards(samples: Iterable[VideoSample], out: Path, per_shard: int, progress: OnProgress | None = None) -> list[Path]:
    """Write `000000.tar`, `000001.tar` … of `per_shard` samples; the same samples give the same bytes.

    A shard gets its name when it is complete. Raises ConfigError if `out` already holds tars.
    """
    import webdataset  # not at the top: it imports torch, which reading does not need

    if per_shard < 1:
        raise ConfigError(f"per_shard, the number of samples per video shard, must be at least 1; got {per_shard}")
    if any(out.glob("*.tar")):
        raise ConfigError(f"{out} already holds .tar files; give an empty folder, or remove them first")
    out.mkdir(parents=True, exist_ok=True)
    shards: list[Path] = []
    remaining = iter(samples)
    while first := next(remaining, None):
        shard = out / f"{len(shards):06d}.tar"
        with (
            replacing(shard) as temporary,
            temporary.open("wb") as file,
            webdataset.TarWriter(file, encoder=False, mtime=0) as tar,
        ):
            for sample in chain([first], islice(remaining, per_shard - 1)):
                text = json.dumps(sample.metadata, ensure_ascii=False, sort_keys=True)
                tar.write({"__key__": sample.key, sample.extension: sample.video, "json": text.encode()})
                if progress:
                    progress(1)
        shards.append(shard)
    return shards


def list_shards(pattern: str) -> list[Shard]:
    """The .tar files of a folder, of a glob, or of a URL of either (`s3://…`), sorted.

    Raises ConfigError if there are none, or two with the same stem.
    """
    found: list[Shard]
    if "://" in pattern:
        found = list(remote_files(pattern))
    else:
        folder = Path(pattern)
        found = sorted(folder.glob("*.tar") if folder.is_dir() else map(Path, glob.glob(pattern, recursive=True)))
    if not found:
        raise ConfigError(f"no video shards at {pattern}; give a folder that holds .tar files, or a glob such as 'DIR/*.tar'")
    stems: dict[str, Shard] = {}
    for shard in found:
        other = stems.setdefault(shard.stem, shard)
        if other != shard:
            raise ConfigError(f"{other} and {shard} have the same name, so their token shards would too; rename one")
    return found


def scan(shard: Shard) -> ShardListing:
    """List a shard's samples, bad ones and truncation, from one walk over the tar's headers.

    Consecutive members with the same key are one sample, as in webdataset. If a key occurs again, the first sample is kept
    and the other is a duplicate. Raises ShardError if the file is not a tar.
    """
    listing = ShardListing(shard)
    seen: set[str] = set()
    spoiled: set[str] = set()
    key, group = "", dict[str, Span]()
    with shard.open("rb") as file:
        walk = _Walk(file, shard)
        for info in walk:
            if info.isdir():
                continue
            match = MEMBER_NAME.fullmatch(info.name)
            if reason := _flaw(info, match is not None):
                name = match[1] if match else info.name
                if name not in spoiled:
                    listing.bad.append((name, reason))
                spoiled.add(name)
            elif match:
                extension = match[2].lower()
                if match[1] != key or extension in group:
                    _close(listing, seen, spoiled, key, group)
                    key, group = match[1], {}
                group[extension] = Span(info.offset_data, info.size)
        if walk.cut and not {"json"} < set(group):
            group = {}  # the last sample is incomplete because of the cut, not bad by itself
        _close(listing, seen, spoiled, key, group)
    if walk.cut:
        listing.truncated = f"{shard} is cut: {walk.cut}; the {len(listing.samples)} samples before that are complete"
    return listing


def read(shard: Shard, member: VideoMember) -> VideoSample:
    """One sample. Raises ShardError if the file has changed, VideoError if its metadata are unusable."""
    name = f"{shard}: {member.key}"
    if member.metadata.size > LARGEST_METADATA:
        raise VideoError("bad_metadata", f"{name}: {member.metadata.size} bytes of JSON; the limit is {LARGEST_METADATA}")
    with shard.open("rb") as file:
        video, text = (_content(file, span) for span in (member.video, member.metadata))
    if len(video) != member.video.size or len(text) != member.metadata.size:
        raise ShardError(f"{name}: its bytes are missing; the shard has changed since it was listed")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VideoError("bad_metadata", f"{name}: the JSON cannot be read: {error}") from error
    if not isinstance(metadata, dict):
        raise VideoError("bad_metadata", f"{name}: the JSON is not an object")
    return VideoSample(member.key, video, member.extension, {**metadata, **_captions(metadata, name)})


def _flaw(info: tarfile.TarInfo, named: bool) -> str:
    """Why a member cannot belong to a sample; empty if it can."""
    if not info.isreg() or info.sparse is not None:
        return "not_a_file"
    if not named or not info.name.isprintable() or info.name.startswith("/") or ".." in info.name.split("/"):
        return "bad_name"
    return ""


class _Walk:
    """Iterates over the members whose content is complete; afterwards `cut` describes a truncation, or is empty.

    Python's tarfile takes a cut between members, or inside a header, for the end of the tar; a complete tar ends in zeros.
    """

    def __init__(self, file: Any, shard: Shard) -> None:
        self.file, self.shard = file, shard
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.cut = ""

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        end = 0
        try:
            with tarfile.open(fileobj=self.file, mode="r:") as opened:
                tar: Any = opened
                while info := tar.next():
                    if info.offset_data + info.size > self.size:
                        self.cut = f"'{info.name}' needs {info.offset_data + info.size} bytes, the file has {self.size}"
                        return
                    end = info.offset_data + -(-info.size // BLOCK) * BLOCK
                    tar.members.clear()  # else tarfile keeps every header
                    yield info
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            if not end:
                raise ShardError(f"{self.shard} is not a tar: {error}") from error
            self.cut = f"after {end} bytes there is no readable header: {error}"
            return
        self.file.seek(end)
        tail = self.file.read(tarfile.RECORDSIZE)
        if len(tail) < BLOCK or any(tail):  # any: a second tar was appended, which readers would not see
            self.cut = f"after {end} bytes the end mark is missing, or data follows it"


def _close(listing: ShardListing, seen: set[str], spoiled: set[str], key: str, group: dict[str, Span]) -> None:
    """Add a finished group to samples or bad; a spoiled key is in bad already."""
    if not group or key in spoiled:
        return
    videos = [extension for extension in group if extension in (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)]
    if key in seen:
        listing.bad.append((key, "duplicate"))
    elif len(videos) != 1:
        listing.bad.append((key, "two_videos" if videos else "no_video"))
    elif "json" not in group:
        listing.bad.append((key, "no_metadata"))
    else:
        listing.samples.append(VideoMember(key, videos[0], group[videos[0]], group["json"]))
    seen.add(key)


def _captions(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """`captions` as [text, weight] pairs and the first of them as `caption`, if the JSON has `captions`; else nothing."""
    given = metadata.get("captions")
    if given is None:
        if not isinstance(metadata.get("caption"), str):
            raise VideoError("no_caption", f"{name}: the JSON has no 'caption' text")
        return {}
    try:
        pairs = [(item, 1.0) if isinstance(item, str) else (item[0], float(item[1])) for item in given]
        if pairs and all(isinstance(text, str) and 0 < weight < float("inf") for text, weight in pairs):
            return {"caption": pairs[0][0], "captions": [list(pair) for pair in pairs]}
    except (TypeError, ValueError, LookupError):
        pass
    raise VideoError("no_caption", f"{name}: 'captions' must be a list of texts, or of [text, weight] with weights above zero")


def _content(file: BinaryIO, span: Span) -> bytes:
    file.seek(span.offset)
    return file.read(span.size)
