"""Makers of video shards: from a folder or table of captioned videos, or from rendered moving shapes."""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from hitvideo.data.names import printable
from hitvideo.data.packing_keys import keys_of
from hitvideo.data.remote import persistently
from hitvideo.data.sample_groups import VIDEO_EXTENSIONS
from hitvideo.data.sources import Choice, Sources, find_sources
from hitvideo.data.video_shards import OnProgress, VideoSample, write_shards
from hitvideo.errors import ConfigError, VideoError
from hitvideo.files import replace_json
from hitvideo.hierarchy import ClipShape
from hitvideo.moving_shapes import scenes
from hitvideo.video.decode import probe
from hitvideo.video.encode import encode_mp4

UNFINISHED = ".packing"
FINISHED = "packed.json"
"""Written last, with the counts: the folder's video shards are complete."""
MOST_NAMED = 10  # places that the log names, per reason
_TABLES = (".tsv", ".csv", ".jsonl", ".parquet")
SMALLEST_FRAME = 16  # pixels: two shapes that must stay apart find no place in less
LARGEST_SEED = (1 << 63) - 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackSummary:
    """Counts of a source's videos: found = packed + what is left out."""

    found: int
    packed: int
    left_out: dict[str, list[str]]
    """Reason → places: no_caption, bad_caption, timed_captions, bad_metadata, missing, outside, duplicate, filtered,
    other_kind, cannot_read."""
    unreadable: list[str]
    """Sources packed although their header cannot be read; tokenization rejects and counts them."""
    shards: list[Path]

    @property
    def no_caption(self) -> list[str]:
        return self.left_out.get("no_caption", [])


def pack(
    src: Path,
    out: Path,
    per_shard: int,
    progress: OnProgress | None = None,
    choice: Choice | None = None,
    shuffle: int | None = None,
    dry_run: bool = False,
) -> PackSummary:
    """Pack a folder of videos with a `.txt` caption next to each, or a table with a column of files and one of captions.

    `shuffle`: the seed of the order; None keeps that of the folder or table. The same input gives the same bytes. With
    `dry_run` everything is checked and nothing is written. A video that cannot be packed is left out, counted and named.
    Raises ConfigError if none can be, a column is missing, or `out` is not an empty folder (or one of an interrupted pack).
    """
    if per_shard < 1:
        raise ConfigError(f"per_shard, the number of samples per video shard, must be at least 1; got {per_shard}")
    _check_out(out)
    if src.is_dir() and out.resolve().is_relative_to(src.resolve()):
        raise ConfigError(f"{out} is inside {src}; give a folder outside of what is packed")
    sources = find_sources(src, choice or Choice())
    for reason, places in sources.left_out.items():
        for place in places[:MOST_NAMED]:
            log.warning("%s: left out, %s: %s", src, reason, place)
        if len(places) > MOST_NAMED:
            log.warning("%s: left out, %s: %d more", src, reason, len(places) - MOST_NAMED)
    if not sources.entries:
        raise ConfigError(_nothing(src, sources))
    keys = dict(zip((entry.source for entry in sources.entries), keys_of([e.source for e in sources.entries]), strict=True))
    if shuffle is not None:
        sources.entries.sort(key=lambda entry: _shuffled(shuffle, entry.source))
    found, unreadable = sources.found, list[str]()
    if dry_run:
        return PackSummary(found, len(sources.entries), sources.left_out, unreadable, [])
    packed = 0

    def samples() -> Iterator[VideoSample]:
        nonlocal packed
        for entry in sources.entries:
            try:
                video = persistently(entry.path.read_bytes, entry.path)
            except OSError as error:
                log.warning("%s: left out, cannot_read: %s", src, error)
                sources.leave_out("cannot_read", entry.source)
                continue
            try:
                header = {"header": asdict(probe(video, str(entry.path)))}
            except VideoError as error:
                log.warning("%s; packed as it is", error)
                unreadable.append(printable(entry.source))
                header = {}
            packed += 1
            yield VideoSample(keys[entry.source], video, entry.path.suffix[1:].lower(), {**entry.metadata, **header})

    with _packing(out):
        shards = write_shards(samples(), out, per_shard, progress)
        if not shards:
            raise ConfigError(f"{src}: none of {found} videos can be read; the log names them")
        counts = {reason: len(places) for reason, places in sorted(sources.left_out.items())}
        replace_json(out / FINISHED, {"found": found, "packed": packed, "left_out": counts, "shards": len(shards)}, 1)
    return PackSummary(found, packed, sources.left_out, unreadable, shards)


def write_moving_shapes(
    out: Path,
    num: int,
    seed: int,
    clip: ClipShape,
    objects: scenes.Objects,
    per_shard: int,
    progress: OnProgress | None = None,
    hold_out: float = 0.0,
) -> list[Path]:
    """Render `num` captioned clips into video shards; the same arguments give the same bytes.

    `hold_out`: the share of the combinations of colour, shape and motion that no clip shows. Every sample's metadata tells it.
    Raises ConfigError if a number is out of its range, or `out` is not an empty folder (or one of an interrupted call).
    """

    def render() -> Iterator[VideoSample]:
        for key, scene, rng in scenes.scenes(num, seed, objects, hold_out, "seen" if hold_out else "all"):
            metadata = {"caption": scenes.caption(scene), "source": "moving_shapes", "fps": clip.fps, **kept}
            yield VideoSample(key, encode_mp4(scenes.render(scene, clip, rng), clip.fps), "mp4", metadata)

    if num < 1:
        raise ConfigError(f"the number of clips must be at least 1; got {num}")
    if per_shard < 1:
        raise ConfigError(f"per_shard, the number of samples per video shard, must be at least 1; got {per_shard}")
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"the seed must be from 0 to {LARGEST_SEED}; got {seed}")
    if min(clip.height, clip.width) < SMALLEST_FRAME or clip.height % 2 or clip.width % 2:
        size = f"{clip.height}×{clip.width} pixels"
        raise ConfigError(f"clip: moving shapes need even sizes of at least {SMALLEST_FRAME} pixels; got {size}")
    kept = {"hold_out": hold_out} if hold_out else {}
    if hold_out:
        scenes.check_hold_out(hold_out)
    with _packing(out):
        shards = write_shards(render(), out, per_shard, progress)
        made = {"seed": seed, "objects": objects, "hold_out": hold_out}
        counts = {"found": num, "packed": num, "left_out": {}, "shards": len(shards)}
        replace_json(out / FINISHED, {**counts, "moving_shapes": made}, 1)
    return shards


def _check_out(out: Path) -> None:
    """Raises ConfigError unless `out` is absent, an empty folder, or one where a call was interrupted."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give an empty folder")
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if held and UNFINISHED not in held:
        what = "already holds .tar files" if any(name.endswith(".tar") for name in held) else f"is not empty: {held[0]}"
        raise ConfigError(f"{out} {printable(what)}; give an empty folder")


@contextmanager
def _packing(out: Path) -> Iterator[None]:
    """Hold `out` as an empty folder while shards are written into it; what an interrupted call left there is removed."""
    _check_out(out)
    marker = out / UNFINISHED
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = marker.open("w")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}; give another folder") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{out}: another process is writing video shards there; wait for it, or stop it") from error
        except OSError:  # a file system without locks
            pass
        for left in [*out.glob("[0-9]*.tar"), *out.glob(".[0-9]*.tar.*"), *out.glob(f".{FINISHED}.*")]:
            left.unlink()
        yield
        marker.unlink()


def _shuffled(seed: int, source: str) -> bytes:
    """A source's place in the shuffled order, which no other source changes."""
    return hashlib.sha256(f"{seed}:{source}".encode("utf-8", "surrogateescape")).digest()


def _nothing(src: Path, sources: Sources) -> str:
    """Why there is nothing to pack."""
    if not sources.found:
        return f"{src}: no videos found; known extensions are {', '.join(VIDEO_EXTENSIONS)}"
    reasons = "; ".join(f"{len(places)} {reason}, such as {places[0]}" for reason, places in sources.left_out.items())
    found = f"{src}: none of {sources.found} videos can be packed: {reasons}"
    tables = [each for each in sorted(src.glob("*.*")) if each.suffix in _TABLES] if src.is_dir() else []
    return f"{found}; a table in the folder may name their captions: give {tables[0]} instead" if tables else found
