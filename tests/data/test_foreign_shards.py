"""Video shards that other people's tools wrote: what is read, and what is refused under which reason."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hitvideo.data.video_shards import read, scan
from hitvideo.errors import VideoError
from tests.data.tars import JSON, MP4, counted, outcome, pair, tar_of

# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_any_name_is_a_key(tmp_path: Path, form: int) -> None:
    names = ["東京", "caf\u00e9", "cafe\u0301", "👨\u200d👩\u200d👧", "a\u00a0b", "./plain", "v1.0/a"]
    names += ["d" * 90 + "/" + "k" * 90, "caf\udce9"]
    path = tar_of(tmp_path / "x.tar", *(m for n, name in enumerate(names) for m in pair(name, caption=str(n))), form=form)
    listing = scan(path)
    assert (listing.bad, listing.truncated) == ([], None)
    assert list(outcome(path).values()) == [str(n) for n in range(len(names))]
    keys = [member.key for member in listing.samples]
    assert keys[:-1] == ["東京", "caf\u00e9", "cafe\u0301", "👨\u200d👩\u200d👧", "a\u00a0b", "plain", "v1.0/a", names[7]]
    assert "caf" in keys[-1]
    assert len({key.encode() for key in keys}) == len(names)


def test_the_tar_command_writes_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, content in (*pair("a"), *pair("東京"), *pair("k" * 150)):
        (tmp_path / "in" / name).write_bytes(content)
    for number, form in enumerate(("gnu", "pax", "ustar")):
        files = ["a.mp4", "a.json", "東京.json", "東京.mp4"] if form == "ustar" else ["."]
        tar = tmp_path / f"{number}.tar"
        subprocess.run(["tar", "-C", str(tmp_path / "in"), f"--format={form}", "-cf", str(tar), *files], check=True)
        listing = scan(tar)
        assert (listing.bad, listing.truncated) == ([], None)
        assert set(outcome(tar)) == {"a", "東京", "k" * 150} - ({"k" * 150} if form == "ustar" else set())


def test_names_that_tear_logs_apart_are_bad(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", *pair("a\nb"), *pair("c\x1b[31m"), *pair("d\u2028"), *pair("good"))
    assert list(outcome(path)) == ["good"]
    assert [reason for _, reason in scan(path).bad] == ["bad_name"] * 3
    assert all(name.isprintable() for name, _ in scan(path).bad)


def test_names_with_inner_dots(tmp_path: Path) -> None:
    """A video with a caption of the same name is a sample; every other one is counted once."""
    path = tar_of(tmp_path / "x.tar", *pair("s1.clip1"), *pair("s1.clip2"), *pair("v1.0_xxx"), ("s1.note.json", JSON),
                  ("s2.left.mp4", MP4), ("s2.right.mp4", MP4), ("s2.json", JSON))  # fmt: skip
    assert (sorted(outcome(path)), counted(scan(path))) == (["s1%2Eclip1", "s1%2Eclip2", "v1%2E0_xxx"], [
        ("s1.note", "no_video"), ("s2", "no_video"), ("s2.left", "dotted_key"), ("s2.right", "dotted_key")])  # fmt: skip
    path = tar_of(tmp_path / "y.tar", *pair("a"), *pair("a.b"), ("a.thumb.jpg", b"x"), ("a.seg.npy", b"x"))
    assert (sorted(outcome(path)), counted(scan(path))) == (["a", "a%2Eb"], [])


# ------------------------------------------------------------------------------------------------ layouts


def test_layouts(tmp_path: Path) -> None:
    members = {
        "video2dataset": [*pair("a", caption="json", url="u"), ("a.txt", b"text"), ("a.m4a", b"sound")],
        "text beside": [("a.mp4", MP4), ("a.txt", b"hello\n")],
        "text beside a JSON without caption": [*pair("a", url="u", caption=None), ("a.txt", "\ufeffh\u00e9".encode())],
        "finetrainers": [("a.video", MP4), ("a.caption", b"words")],
        "cap": [("a.mp4", MP4), ("a.cap", b"words")],
        "energon": [("a.video.mp4", MP4), ("a.json", JSON)],
        "thumbnail": [*pair("a"), ("a.jpg", b"picture")],
        "picture": [("a.png", b"picture"), ("a.txt", b"x")],
        "upper case": [("a.MP4", MP4), ("a.JSON", JSON)],
        "mts": [("a.MTS", MP4), ("a.txt", b"x")],
    }
    expected = dict(zip(members, ["json", "hello", "hé", "words", "words", "a", "a", "x", "a", "x"], strict=True))
    for layout, content in members.items():
        path = tar_of(tmp_path / "x.tar", *content)
        assert (outcome(path), scan(path).bad) == ({"a": expected[layout]}, []), layout
    assert scan(tar_of(tmp_path / "x.tar", *members["thumbnail"])).samples[0].extension == "mp4"


def test_members_of_a_sample_may_be_apart(tmp_path: Path) -> None:
    """A tar sorted by extension, or in the order of `find`."""
    members = [member for key in "abc" for member in pair(key)]
    for order in (sorted(members, key=lambda member: member[0][-1]), members[::2] + members[1::2][::-1]):
        path = tar_of(tmp_path / "x.tar", *order)
        assert (outcome(path), scan(path).bad) == ({"a": "a", "b": "b", "c": "c"}, [])


def test_captions_never_go_to_another_samples_video(tmp_path: Path) -> None:
    """Two samples have the same key, and one of them has no caption: the other keeps its own video."""
    second = ("a.mp4", b"second"), ("a.json", b'{"caption": "of second"}')
    path = tar_of(tmp_path / "x.tar", ("a.mp4", b"first"), *pair("b"), *second)
    (found,) = [read(path, member) for member in scan(path).samples if member.key == "a"]
    assert (found.video, found.caption) == (b"second", "of second")
    assert counted(scan(path)) == [("a", "duplicate")]
    other = ("a.mkv", b"other"), ("a.txt", b"of other")
    path = tar_of(tmp_path / "z.tar", *pair("a"), *pair("b"), *other)
    assert (outcome(path), scan(path).bad) == ({"a": "a", "b": "b"}, [("a", "duplicate")])
    path = tar_of(tmp_path / "y.tar", ("a.mp4", b"1"), ("b.mp4", b"1"), ("a.mp4", b"2"), ("b.mp4", b"2"), ("a.json", JSON))
    assert scan(path).samples == []
    assert counted(scan(path)) == [("a", "duplicate"), ("a", "duplicate"), ("b", "duplicate"), ("b", "duplicate")]


def test_failed_downloads_are_told_from_missing_videos(tmp_path: Path) -> None:
    failed = json.dumps({"caption": "x", "status": "failed_to_download", "error_message": "404"}).encode()
    fine = json.dumps({"caption": "x", "status": "success"}).encode()
    members = [("a.json", failed), ("a.txt", b"x"), ("b.json", fine), ("c.json", b"{"), ("d.json", b"[]")]
    assert counted(scan(tar_of(tmp_path / "x.tar", *members))) == [
        ("a", "download_failed"), ("b", "no_video"), ("c", "no_video"), ("d", "no_video")]  # fmt: skip


# ------------------------------------------------------------------------------------------------ captions


CAPTIONS = [
    ({"captions": "A man walks"}, "A man walks"),
    ({"caption": "A", "captions": "B"}, "A"),
    ({"caption": "", "captions": "B"}, "B"),
    ({"caption": "A", "captions": []}, "A"),
    ({"caption": "A", "captions": {"short": "x"}}, "A"),
    ({"caption": ["x", "y"]}, "x"),
    ({"captions": ["", None, "y"]}, "y"),
    ({"text": "T"}, "T"),
    ({"prompt": "P"}, "P"),
    ({"caption": "nan", "text": "T"}, "T"),
    ({"captions": {"short": "x", "long": "y"}}, "!no_caption"),
    ({"captions": [{"text": "x"}]}, "!no_caption"),
    ({"captions": [{"start": 0, "end": 1, "text": "x"}]}, "!timed_captions"),
    ({"captions": [["x", 0]], "caption": "A"}, "!no_caption"),
    ({"captions": [["x", "y"]]}, "!no_caption"),
    ({"captions": [3]}, "!no_caption"),
    ({"caption": 3}, "!no_caption"),
    *(({"caption": blank}, "!no_caption") for blank in ("", "  \n", "nan", "NaN", "null", "None", "\u200b")),
    *(({"caption": blank}, "!no_caption") for blank in (None, float("nan"), [], {})),
]


@pytest.mark.parametrize(("known", "expected"), CAPTIONS)
def test_captions(tmp_path: Path, known: dict[str, Any], expected: str) -> None:
    path = tar_of(tmp_path / "x.tar", *pair("k", **known))
    assert outcome(path) == {"k": expected}
    if not expected.startswith("!"):
        metadata = read(path, scan(path).samples[0]).metadata
        assert all(isinstance(text, str) and weight > 0 for text, weight in metadata.get("captions", []))


def test_a_list_of_captions_is_kept(tmp_path: Path) -> None:
    for field in ("captions", "caption"):
        path = tar_of(tmp_path / "x.tar", *pair("k", **{field: [["x", 2], "y"]}))
        assert read(path, scan(path).samples[0]).metadata["captions"] == [["x", 2.0], ["y", 1.0]]


@pytest.mark.parametrize(("content", "expected"), [
    ("Un café".encode("utf-8-sig"), "Un café"), ("Un café".encode("utf-16"), "Un café"),
    ("Un café".encode("utf-32"), "Un café"),
    ("Un café".encode("latin-1"), "!bad_caption"), ("一只猫".encode("gbk"), "!bad_caption"), (b"it\x92s", "!bad_caption"),
    ("Un café".encode("utf-16-le"), "!bad_caption"), ("Це́й Жебрівський".encode(), "Це́й Жебрівський"),
    ("Tiê\u0301ng Việt".encode(), "Tiê\u0301ng Việt"), ("ελληνικά/русский 5µm".encode(), "ελληνικά/русский 5µm"),
    (b"a\0b", "!bad_caption"), (b" nan \n", "!no_caption"),
])  # fmt: skip
def test_encodings_of_a_caption_beside(tmp_path: Path, content: bytes, expected: str) -> None:
    assert outcome(tar_of(tmp_path / "x.tar", ("k.mp4", MP4), ("k.txt", content))) == {"k": expected}


@pytest.mark.parametrize(("text", "field"), [
    (r'{"caption": "x", "title": "cut \ud83d"}', "title"), (r'{"caption": "cut \ud83d"}', "caption"),
    (r'{"caption": "x", "a": {"b": ["\udc00"]}}', "b"), (r'{"caption": "x", "a\u0000b": 1}', r"a\x00b"),
    (r'{"caption": "n\u0000l"}', "caption"), ('{"caption": "x", "deep": ' + "[" * 100 + "]" * 100 + "}", "deep"),
    ("[" * 100_000, ""), (r'{"caption": "x", "n": 1' + "0" * 5000 + "}", ""),
])  # fmt: skip
def test_metadata_that_cannot_be_written_again(tmp_path: Path, text: str, field: str) -> None:
    path = tar_of(tmp_path / "x.tar", ("k.mp4", MP4), ("k.json", text.encode()), *pair("good"))
    bad, good = scan(path).samples
    with pytest.raises(VideoError) as caught:
        read(path, bad)
    assert caught.value.reason == "bad_metadata"
    assert ": k: " in str(caught.value)
    assert not field or f"'{field}'" in str(caught.value)
    assert str(caught.value).encode()
    assert read(path, good).caption == "good"


def test_what_json_has_no_number_for_becomes_null(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar", ("k.mp4", MP4), ("k.json", b'{"caption": "x", "a": NaN, "b": [-Infinity, 1e999, 2.5]}'))
    metadata = read(path, scan(path).samples[0]).metadata
    assert metadata == {"caption": "x", "a": None, "b": [None, None, 2.5]}
