"""Reader and writer of video shards, the tars that tokenization and tokenizer training read.

A video shard is a webdataset tar: `KEY.mp4` (or another container, with its extension), `KEY.json` with the caption, the
source and any other metadata, and perhaps `KEY.txt` with the caption. The webdataset library writes it, and the same samples
give the same bytes. It is read without that library: `scan` walks the headers once and `read` fetches one sample at its
offset, so bad samples are named, a truncated tar is detected, and samples can be read in any order. Videos are copied, not
decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hitvideo.data.captions import LARGEST_METADATA, metadata_of, with_captions
from hitvideo.data.names import printable, split_name
from hitvideo.data.remote import Ranges, Shard
from hitvideo.data.remote import Span as Span
from hitvideo.data.sample_groups import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from hitvideo.data.sample_groups import REASONS as REASONS
from hitvideo.data.sample_groups import VIDEO_EXTENSIONS as VIDEO_EXTENSIONS
from hitvideo.data.sample_groups import Group, Parts, dotted_stems, joined, parts_of, without_dotted
from hitvideo.data.shard_lists import list_shards as list_shards
from hitvideo.data.tar_walk import Walk
from hitvideo.errors import ConfigError, ShardError, VideoError
from hitvideo.files import replacing

LARGEST_FAILURE = 1 << 20  # bytes of JSON that are read to tell a failed download
UNSAFE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")  # control characters and line ends tear logs and lists apart

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


@dataclass(frozen=True)
class VideoMember:
    """Place of one sample in its shard."""

    key: str
    """Text that can be written as UTF-8; bytes of the name that are not UTF-8 are written as `\\udcXX`."""
    extension: str
    video: Span
    metadata: Span | None
    """Its JSON."""
    caption: Span | None = None
    """Its caption's own file, which counts if the JSON has no caption."""


@dataclass
class ShardListing:
    """Contents of a video shard: every sample is in `samples` or in `bad`."""

    shard: Shard
    samples: list[VideoMember] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of key (or member name), made printable, and reason, a key of REASONS."""
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


def scan(shard: Shard) -> ShardListing:
    """List a shard's samples, bad ones and truncation, from one walk over the tar's headers.

    Members with the same key are one sample, also if others are between them. If a key has an extension twice, its first
    complete sample is kept, and the others are duplicates. Raises ShardError if the file is not a tar, OSError if it cannot
    be read.
    """
    listing = ShardListing(shard)
    runs: dict[str, list[Group]] = {}  # by key: runs of consecutive members
    spoiled: dict[str, str] = {}
    last = ""
    with Ranges(shard) as ranges:
        walk = Walk(ranges)
        for member in walk:
            split = split_name(member.name)
            if split is None or member.flaw or not _is_safe(member.name):
                spoiled.setdefault(split[0] if split else member.name, member.flaw or "bad_name")
                last = ""
                continue
            key, extension = split
            if key != last or extension in runs[key][-1]:
                runs.setdefault(key, []).append({})
            runs[key][-1][extension] = member.span
            last = key
        if not (walk.cut or runs or spoiled):
            walk.cut = "it holds no files"
        if walk.cut and last and not _whole(joined(runs[last])[0], runs):
            del runs[last]  # incomplete because of the cut, not bad by itself
        listing.bad += [(printable(name), reason) for name, reason in spoiled.items()]
        seen: set[str] = set()
        for key, groups in runs.items():
            if key not in spoiled:  # else it is in bad already
                _close(listing, seen, key, groups, ranges)
    if walk.cut:
        listing.truncated = f"{shard} is cut: {walk.cut}; the {len(listing.samples)} samples before that are complete"
    return listing


def read(shard: Shard, member: VideoMember) -> VideoSample:
    """One sample.

    Raises ShardError if the file has changed, VideoError if its metadata or caption are unusable, OSError if the file or the
    store cannot be read.
    """
    name = f"{shard}: {printable(member.key)}"
    for span, reason in ((member.metadata, "bad_metadata"), (member.caption, "bad_caption")):
        if span and span.size > LARGEST_METADATA:
            raise VideoError(reason, f"{name}: {span.size} bytes of text; the limit is {LARGEST_METADATA}")
    spans = [span for span in (member.video, member.metadata, member.caption) if span is not None]
    with Ranges(shard) as ranges:
        contents = ranges.read_spans(spans)
    if any(len(content) != span.size for content, span in zip(contents, spans, strict=True)):
        raise ShardError(f"{name}: its bytes are missing; the shard has changed since it was listed")
    video, *texts = contents
    metadata = metadata_of(texts.pop(0), name) if member.metadata else {}
    return VideoSample(member.key, video, member.extension, with_captions(metadata, texts[0] if texts else None, name))


def _is_safe(name: str) -> bool:
    return not (name.startswith("/") or ".." in name.split("/") or UNSAFE.search(name))


def _whole(group: Group, runs: dict[str, list[Group]]) -> bool:
    """Whether a tar that is cut after this group has all of it; if other samples have a JSON, this one needs it, too."""
    with_json = any("json" in other for groups in runs.values() for other in groups)
    whole = isinstance(parts_of(group), Parts) and ("json" in group or not with_json)
    return whole or all("." in name for name in group)  # each of several samples with inner dots is judged by itself


def _close(listing: ShardListing, seen: set[str], key: str, groups: list[Group], ranges: Ranges) -> None:
    """Add a key's members to samples or bad."""
    group, others = joined(groups)
    if others:
        listing.bad += [(printable(key), "duplicate")] * others
    group, dotted = without_dotted(key, group)
    for inner, parts in dotted.items():
        _add(listing, seen, inner, parts)
    if not group:
        return
    found = parts_of(group)
    stems = dotted_stems(key, group, all_of_them=isinstance(found, str))
    listing.bad += [(printable(stem), reason) for stem, reason in stems.items()]
    if isinstance(found, Parts):
        _add(listing, seen, key, found)
    elif any("." not in name for name in group):
        failed = found == "no_video" and "json" in group and _download_failed(ranges, group)
        listing.bad.append((printable(key), "download_failed" if failed else found))


def _add(listing: ShardListing, seen: set[str], key: str, parts: Parts) -> None:
    key = key.encode("utf-8", "backslashreplace").decode()
    if key in seen:
        listing.bad.append((printable(key), "duplicate"))
    else:
        seen.add(key)
        listing.samples.append(VideoMember(key, *parts))


def _download_failed(ranges: Ranges, group: Group) -> bool:
    """Whether the JSON says, as video2dataset and img2dataset write it, that the download of the video failed."""
    span = group["json"]
    if span.size > LARGEST_FAILURE:
        return False
    try:
        status = metadata_of(ranges.read(span.offset, span.end), "").get("status")
    except VideoError:
        return False
    return isinstance(status, str) and status not in ("", "success")
