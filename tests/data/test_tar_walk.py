"""Damaged and hostile tars: a cut, a hole or a header of any size is named, and costs no more than what it hides."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from hitvideo.data.video_shards import REASONS, scan
from hitvideo.errors import ShardError
from tests.data.tars import MP4, outcome, pair, tar_of
from tests.fuzz import mutations


def holed(path: Path, start: int, size: int) -> Path:
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    return path


def test_a_hole_is_a_cut(tmp_path: Path) -> None:
    members = [member for number in range(8) for member in pair(f"k{number}")]
    places = scan(tar_of(tmp_path / "x.tar", *members)).samples
    for start in (0, 100, 300):
        path = holed(tar_of(tmp_path / "x.tar", *members), places[3].video.offset - 512 - start, 700 + start)
        listing = scan(path)
        assert listing.truncated
        assert str(path) in listing.truncated
        assert [member.key for member in listing.samples] == ["k0", "k1", "k2"]
    to_the_end = holed(tar_of(tmp_path / "x.tar", *members), places[3].video.offset - 512, 10**6)
    to_the_end.write_bytes(to_the_end.read_bytes() + bytes(30_000))
    assert scan(to_the_end).truncated


@pytest.mark.parametrize("size", [512, 1024, 10_240, 50_000, 10_000_000])
def test_a_file_of_zeros_is_cut(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.tar").write_bytes(bytes(size))
    listing = scan(tmp_path / "x.tar")
    assert (listing.samples, listing.bad) == ([], [])
    assert listing.truncated


def test_a_tar_of_folders_only_is_cut(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    subprocess.run(["tar", "-C", str(tmp_path / "in"), "-cf", str(tmp_path / "x.tar"), "."], check=True)
    assert scan(tmp_path / "x.tar").truncated


def test_an_appended_tar_is_noticed(tmp_path: Path) -> None:
    """However much of zeros is between the two."""
    content = tar_of(tmp_path / "a.tar", *pair("a")).read_bytes()
    end = content.rindex(b'"a"}') // 512 * 512 + 512
    for zeros in (512, 1024, 10_240, 20_480, 40_960):
        (tmp_path / "x.tar").write_bytes(content[:end] + bytes(zeros) + tar_of(tmp_path / "b.tar", *pair("b")).read_bytes())
        listing = scan(tmp_path / "x.tar")
        assert [member.key for member in listing.samples] == ["a"]
        assert listing.truncated


def test_a_huge_extended_header_costs_only_its_member(tmp_path: Path) -> None:
    """1.5 GB in a file with a hole: 4 KiB on the disk."""
    rest = tar_of(tmp_path / "rest.tar", *pair("evil"), *pair("good")).read_bytes()
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 1500 << 20
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.seek(512 + header.size)
        file.write(rest)
    tracemalloc.start()
    listing = scan(tmp_path / "x.tar")
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert [member.key for member in listing.samples] == ["good"]
    assert (listing.bad, listing.truncated) == ([("evil", "bad_name")], None)


@pytest.mark.parametrize("records", [
    b"5 a=b\n", b"99999 path=x\n", b"-5 path=x\n", b"x path=y\n", b"999999999999999999999 a=b\n",
])  # fmt: skip
def test_a_damaged_extended_header_costs_only_its_member(tmp_path: Path, records: bytes) -> None:
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    rest = tar_of(tmp_path / "rest.tar", *pair("a"), *pair("good")).read_bytes()
    (tmp_path / "x.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + rest)
    assert list(outcome(tmp_path / "x.tar")) == ["good"]
    assert scan(tmp_path / "x.tar").bad == [("a", "bad_name")]


@pytest.mark.parametrize("size", [
    b"-0000000100", b"-0000001000", b"77777777777", b"\x80" + b"\0" * 3 + b"\x7f" * 8, b"\xff" * 11 + b"\x80",
    b"\xff" * 10 + b"\xfe\0",
])  # fmt: skip
@pytest.mark.timeout(20)  # a walk that goes back by a header never ends
def test_absurd_sizes_end_the_shard(tmp_path: Path, size: bytes) -> None:
    content = bytearray(tar_of(tmp_path / "x.tar", *pair("good"), *pair("bad")).read_bytes())
    at = scan(tmp_path / "x.tar").samples[1].video.offset - 512
    content[at + 124 : at + 136] = size.ljust(12, b"\0")
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    (tmp_path / "x.tar").write_bytes(content)
    listing = scan(tmp_path / "x.tar")
    assert [member.key for member in listing.samples] == ["good"]
    assert listing.truncated


def test_sparse_members_are_refused_and_passed(tmp_path: Path) -> None:
    with (tmp_path / "a.mp4").open("wb") as file:
        for number in range(30):
            file.seek(number * 100_000)
            file.write(b"data")
    (tmp_path / "b.mp4").write_bytes(MP4)
    (tmp_path / "b.txt").write_text("b")
    for form in ("gnu", "pax"):
        words = ["tar", "-C", str(tmp_path), f"--format={form}", "-Scf", str(tmp_path / "x.tar"), "a.mp4", "b.mp4", "b.txt"]
        subprocess.run(words, check=True)
        listing = scan(tmp_path / "x.tar")
        assert outcome(tmp_path / "x.tar") == {"b": "b"}
        assert (listing.bad, listing.truncated) == ([("a", "not_a_file")], None)


def test_a_compressed_tar_is_called_that(tmp_path: Path) -> None:
    content = tar_of(tmp_path / "plain.tar", *pair("a")).read_bytes()
    path = tmp_path / "x.tar"
    for name, compressed in (
        ("gzip", gzip.compress(content)), ("bzip2", bz2.compress(content)), ("xz", lzma.compress(content)),
        ("zstd", b"\x28\xb5\x2f\xfd" + content),
    ):  # fmt: skip
        path.write_bytes(compressed)
        with pytest.raises(ShardError, match=rf"x\.tar .*{name}"):
            scan(path)


def test_damage_anywhere_is_named_and_never_raised(tmp_path: Path) -> None:
    names = ["東京", "./x", "v1.0/y", "k" * 150, "a.b", "caf\udce9"]
    members = [member for name in names for member in (*pair(name, status="bad"), (f"{name}.txt", b"words"))]
    path = tmp_path / "x.tar"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        for content in mutations(tar_of(path, *members, form=form).read_bytes(), 150, seed=0):
            path.write_bytes(content)
            try:
                listing = scan(path)
            except ShardError:
                continue
            assert {reason for _, reason in listing.bad} <= REASONS.keys()
            assert all(name.encode().decode().isprintable() for name, _ in listing.bad)
            assert (listing.truncated or "").encode().decode().isprintable()
            assert all(key.encode() for key in outcome(path))
