"""Video shards: the tars that tokenization and tokenizer training read, written whole and read one sample at a time.

A video shard is a webdataset tar: `KEY.mp4` (or another container, its extension kept) and `KEY.json` with the caption,
the source and whatever else is known. Writing goes through the webdataset library, and the same samples give the same
bytes. Reading does not: `scan` walks the headers once and `read` fetches one sample at its offset, so that a bad sample
can be named, a cut tar is noticed, and no order has to be kept. Videos are copied, never decoded.
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
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")  # a picture is a video of one frame
LARGEST_METADATA = 16 << 20
BLOCK = 512
# How webdataset itself splits a member's name into key and extension: at the first dot of the last path component.
MEMBER_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")

log = logging.getLogger(__name__)

OnProgress = Callable[[int], object]
"""Called with the number of samples done since the last call."""


@dataclass(frozen=True)
class VideoSample:
    """One keyed record: the file's bytes as they are, its extension without the dot, and what is known of it."""

    key: str
    video: bytes
    extension: str
    metadata: dict[str, Any]
    """`caption`, `source` and anything JSON can say."""

    @property
    def caption(self) -> str:
        return str(self.metadata["caption"])


class Span(NamedTuple):
    """Where a member's content lies in its tar, bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class VideoMember:
    """Where one sample lies; `video.size` is known without reading it."""

    key: str
    extension: str
    video: Span
    metadata: Span


@dataclass
class ShardListing:
    """What a walk through a video shard found; samples + bad is everything there is."""

    shard: Shard
    samples: list[VideoMember] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(key or member name, reason): bad_name, not_a_file, duplicate, no_video, two_videos, no_metadata."""
    truncated: str | None = None
    """Set where the tar ends before its end mark: says so in a sentence."""

    def require_whole(self) -> ShardListing:
        """Raises ShardError where the tar is cut."""
        if self.truncated:
            raise ShardError(self.truncated)
        return self


def write_shards(samples: Iterable[VideoSample], out: Path, per_shard: int, progress: OnProgress | None = None) -> list[Path]:
    """Write `000000.tar`, `000001.tar` … of `per_shard` samples; the same samples give the same bytes.

    A shard has its name only when it is whole. Raises ConfigError where `out` holds tars already.
    """
    import webdataset  # here: it imports torch, which reading does not need

    if per_shard < 1:
        raise ConfigError(f"per_shard is the number of samples in a video shard, at least 1; got {per_shard}")
    if any(out.glob("*.tar")):
        raise ConfigError(f"{out} holds .tar files already; name an empty folder, or remove them first")
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

    Raises ConfigError where there are none, or two of one name.
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
            raise ConfigError(f"{other} and {shard} have the same name, and so would their token shards; rename one")
    return found


def scan(shard: Shard) -> ShardListing:
    """Walk the tar's headers once and list its samples; bad ones are reported, a cut tar is marked.

    Consecutive members with the same key are one sample, as for webdataset. A key that comes again is a duplicate, and
    the first one stays. Raises ShardError where the file is no tar at all.
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
            group = {}  # the last sample is only half there: part of the cut, not bad in itself
        _close(listing, seen, spoiled, key, group)
    if walk.cut:
        listing.truncated = f"{shard} is cut: {walk.cut}; {len(listing.samples)} samples before are whole"
    return listing


def _flaw(info: tarfile.TarInfo, named: bool) -> str:
    """Why a member cannot belong to a sample; empty where it can."""
    if not info.isreg() or info.sparse is not None:
        return "not_a_file"
    if not named or not info.name.isprintable() or info.name.startswith("/") or ".." in info.name.split("/"):
        return "bad_name"
    return ""


class _Walk:
    """The members whose content is all there. `cut` says, afterwards, how the file ends too early.

    Python's tarfile takes a cut at a member's border, or inside a header, for the end; a whole tar ends in zeros.
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
                    tar.members.clear()  # tarfile keeps every header it has seen
                    yield info
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            if not end:
                raise ShardError(f"{self.shard} is not a tar: {error}") from error
            self.cut = f"after {end} bytes there is no readable header: {error}"
            return
        self.file.seek(end)
        tail = self.file.read(tarfile.RECORDSIZE)
        if len(tail) < BLOCK or any(tail):  # any: a second tar was appended, of which readers would see nothing
            self.cut = f"after {end} bytes there is no end mark, or more behind it"


def _close(listing: ShardListing, seen: set[str], spoiled: set[str], key: str, group: dict[str, Span]) -> None:
    """Sort a finished group into samples or bad; a spoiled key has been reported already."""
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


def read(shard: Shard, member: VideoMember) -> VideoSample:
    """One sample, by its offsets. Raises ShardError where the bytes are gone, VideoError("bad_metadata") for its JSON."""
    name = f"{shard}: {member.key}"
    if member.metadata.size > LARGEST_METADATA:
        raise VideoError("bad_metadata", f"{name}: {member.metadata.size} bytes of JSON, at most {LARGEST_METADATA} allowed")
    with shard.open("rb") as file:
        video, text = (_content(file, span) for span in (member.video, member.metadata))
    if len(video) != member.video.size or len(text) != member.metadata.size:
        raise ShardError(f"{name}: the bytes are no longer there; the shard has changed since it was listed")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VideoError("bad_metadata", f"{name}: the JSON cannot be read: {error}") from error
    if not isinstance(metadata, dict):
        raise VideoError("bad_metadata", f"{name}: the JSON is no object")
    return VideoSample(member.key, video, member.extension, {**metadata, **_captions(metadata, name)})


def _captions(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """`caption`, and `captions` as [text, weight] pairs where the JSON has several; `caption` is then the first of them."""
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
    raise VideoError("no_caption", f"{name}: 'captions' is a list of texts, or of [text, weight] with weights above zero")


def _content(file: BinaryIO, span: Span) -> bytes:
    file.seek(span.offset)
    return file.read(span.size)
