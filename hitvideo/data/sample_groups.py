"""Which members of a tar make a sample: by their extensions, and by what else has the same key."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from hitvideo.data.remote import Span

VIDEO_EXTENSIONS = (
    "mp4", "m4v", "mov", "qt", "3gp", "3g2", "mkv", "webm", "avi", "divx", "ts", "m2ts", "mts", "m2t", "mpg", "mpeg", "m2v",
    "vob", "flv", "f4v", "ogv", "wmv", "asf",
)  # fmt: skip
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")  # an image is a video of one frame
TEXT_EXTENSIONS = ("txt", "caption", "cap", "text")
ALIAS = "video"  # KEY.video and KEY.video.mp4 are videos, too

REASONS = {
    "bad_name": "its name has no stem or no extension, is absolute, holds '..' or a control character, or is too long",
    "not_a_file": "it is a link or another special member, not a file with content",
    "duplicate": "another sample has the same key",
    "no_video": "no video or picture has its key",
    "two_videos": "several videos, or several pictures, have its key",
    "no_metadata": "neither a .json nor a .txt has its key",
    "download_failed": "the video is missing because its download failed, says the `status` in its JSON",
    "dotted_key": "a key ends at the first dot of a file's name, as in webdataset; a name with more dots is a sample of "
    "its own only if a .json or .txt has the same name; add one, or replace the inner dots",
}
"""What the reasons for members without a sample mean."""

Group: TypeAlias = dict[str, Span]
"""Members with the same key, by extension."""


class Parts(NamedTuple):
    """A sample's members."""

    extension: str
    video: Span
    metadata: Span | None
    caption: Span | None


def parts_of(group: Group) -> Parts | str:
    """The members that make the group's sample, or the reason why there is none. A video wins over its thumbnail."""
    videos = [name for name in group if name == ALIAS or name.removeprefix(f"{ALIAS}.") in VIDEO_EXTENSIONS]
    videos = videos or [name for name in group if name in IMAGE_EXTENSIONS]
    caption = next((group[name] for name in TEXT_EXTENSIONS if name in group), None)
    if len(videos) != 1:
        return "two_videos" if videos else "no_video"
    if "json" not in group and caption is None:
        return "no_metadata"
    return Parts(videos[0].rpartition(".")[2], group[videos[0]], group.get("json"), caption)


def joined(runs: list[Group]) -> tuple[Group, int]:
    """One group of a key's runs of consecutive members, and how many other samples had the same key.

    Members of a sample may be apart, as in a tar sorted by extension. But if an extension comes twice, or a second video
    after a complete sample, it cannot be told which caption belongs to which video: then the first complete run counts.
    """
    if len(runs) == 1:
        return runs[0], 0
    complete = [run for run in runs if isinstance(parts_of(run), Parts)]
    union = {name: span for run in runs for name, span in run.items()}
    with_video = [run for run in runs if parts_of(run) != "no_video"]
    if len(union) == sum(map(len, runs)) and not (complete and len(with_video) > 1):
        return union, 0
    if not complete:
        return ({}, len(with_video)) if with_video else (union, 0)
    dotted = {name: span for name, span in union.items() if "." in name}
    return {**dotted, **complete[0]}, max(1, len([run for run in with_video if run is not complete[0]]))


def without_dotted(key: str, group: Group) -> tuple[Group, dict[str, Parts]]:
    """The group without the samples whose names have inner dots, and those: KEY.a.mp4 and KEY.a.json make one of their own.

    Its key has %2E for each inner dot, so that it is a key of webdataset's, too.
    """
    inner: dict[str, Group] = {}
    for name, span in group.items():
        stem, dot, kind = name.rpartition(".")
        if dot and stem != ALIAS:
            inner.setdefault(stem, {})[kind] = span
    whole = {stem: found for stem, members in inner.items() if isinstance(found := parts_of(members), Parts)}
    rest = {name: span for name, span in group.items() if name.rpartition(".")[0] not in whole}
    return rest, {f"{key}%2E{stem.replace('.', '%2E')}": parts for stem, parts in whole.items()}


def dotted_stems(key: str, group: Group, all_of_them: bool) -> dict[str, str]:
    """Stem → reason of members that belong to other stems, since their names have inner dots.

    In KEY.a.mp4 the stem is KEY.a. Beside a complete sample only videos count: KEY.thumb.jpg is a part of it.
    """
    found: dict[str, str] = {}
    for name in group:
        inner, dot, kind = name.rpartition(".")
        if dot and inner != ALIAS:
            media = kind in VIDEO_EXTENSIONS or (all_of_them and kind in IMAGE_EXTENSIONS)
            if media:
                found[f"{key}.{inner}"] = "dotted_key"
            elif all_of_them:
                found.setdefault(f"{key}.{inner}", "no_video")
    return found
