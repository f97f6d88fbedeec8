"""Video shards: byte-reproducible, readable by webdataset, and every fault of a tar is reported."""

import io
import json
import re
import tarfile
from pathlib import Path

import pytest
import webdataset

from hitvideo.data.pack import write_moving_shapes
from hitvideo.data.video_shards import ShardListing, VideoSample, list_shards, read, scan, write_shards
from hitvideo.errors import ConfigError, ShardError
from hitvideo.hierarchy import ClipShape
from hitvideo.moving_shapes.scenes import parse
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import VideoError, decode_clip
from tests.data.tars import JSON, MP4, tar_of

CLIP = ClipShape(frames=4, height=32, width=32, fps=8)


def sample(number: int, extension: str = "mp4") -> VideoSample:
    metadata = {"caption": f"Zürich 東京 {number}", "source": f"clip {number}.{extension}"}
    return VideoSample(f"k{number}", bytes([number]) * (700 + number), extension, metadata)


def whole(path: Path) -> ShardListing:
    listing = scan(path)
    assert not listing.truncated
    return listing


def test_written_and_read_back(tmp_path: Path) -> None:
    done: list[int] = []
    samples = [sample(k, "webm" if k == 3 else "mp4") for k in range(7)]
    shards = write_shards(samples, tmp_path / "out", 3, done.append)
    assert [shard.name for shard in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    assert sum(done) == 7
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [shard.name for shard in shards]
    assert list_shards(str(tmp_path / "out")) == list_shards(str(tmp_path / "out" / "*.tar")) == shards
    found = [read(shard, member) for shard in shards for member in whole(shard).samples]
    assert found == samples
    assert found[0].caption == "Zürich 東京 0"


def test_byte_reproducible(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_moving_shapes(tmp_path / name, 5, 3, CLIP, "mixed", 2)
    for one, other in zip(list_shards(str(tmp_path / "a")), list_shards(str(tmp_path / "b")), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_webdataset_reads_it(tmp_path: Path) -> None:
    shard = write_shards([sample(k) for k in range(4)], tmp_path, 10)[0]
    found = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [(item["__key__"], item["mp4"], json.loads(item["json"])["source"]) for item in found] == [
        (s.key, s.video, s.metadata["source"]) for s in map(sample, range(4))
    ]


def test_moving_shapes_show_their_caption(tmp_path: Path) -> None:
    shard = write_moving_shapes(tmp_path, 3, 0, CLIP, "2", 10)[0]
    for member in scan(shard).samples:
        found = read(shard, member)
        assert len(parse(found.caption).things) == 2
        assert decode_clip(found.video, CLIP, LimitsSection()).shape == (4, 32, 32, 3)


def test_writing_refuses(tmp_path: Path) -> None:
    write_shards([sample(1)], tmp_path, 10)
    with pytest.raises(ConfigError, match=r"\.tar files"):
        write_shards([sample(1)], tmp_path, 10)
    with pytest.raises(ConfigError, match="at least 1"):
        write_shards([sample(1)], tmp_path / "other", 0)
    with pytest.raises(ConfigError, match="at least 1"):
        write_moving_shapes(tmp_path / "other", 0, 0, CLIP, "1", 5)


def test_a_shard_has_its_name_only_when_whole(tmp_path: Path) -> None:
    def failing():
        yield sample(0)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_shards(failing(), tmp_path, 10)
    assert not list(tmp_path.glob("*.tar"))


def test_list_shards_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        list_shards(str(tmp_path))
    for name in ("a", "b"):
        write_shards([sample(1)], tmp_path / name, 10)
    with pytest.raises(ConfigError, match="same name"):
        list_shards(str(tmp_path / "*" / "*.tar"))


def test_bad_members_are_named_not_raised(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "x.tar",
        ("../evil.mp4", MP4), ("../evil.json", JSON),
        ("/etc/abs.mp4", MP4), ("/etc/abs.json", JSON),
        ("a/../up.json", JSON),
        ("dir/good.json", JSON), ("dir/good.mp4", MP4),
        ("twice.json", JSON), ("twice.mp4", b"first"),
        ("noext", b""), ("._hidden.mp4", b""),
        ("lonely.json", JSON), ("mute.mp4", MP4), ("both.json", JSON), ("both.mp4", MP4), ("both.mkv", MP4),
        ("twice.json", JSON), ("twice.mp4", b"second"),
        ("row.MP4", b"first"), ("row.json", JSON), ("row.MP4", b"second"), ("row.json", JSON),
    )  # fmt: skip
    listing = whole(path)
    assert [member.key for member in listing.samples] == ["dir/good", "twice", "row"]
    assert [read(path, member).video for member in listing.samples] == [MP4, b"first", b"first"]
    assert sorted(listing.bad) == sorted([
        ("../evil", "bad_name"), ("/etc/abs", "bad_name"), ("a/../up", "bad_name"), ("noext", "bad_name"),
        ("._hidden.mp4", "bad_name"), ("lonely", "no_video"), ("mute", "no_metadata"), ("both", "two_videos"),
        ("twice", "duplicate"), ("row", "duplicate"),
    ])  # fmt: skip


def test_links_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("k.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        info = tarfile.TarInfo("k.json")
        info.size = len(JSON)
        tar.addfile(info, io.BytesIO(JSON))
    listing = scan(path)
    assert (listing.samples, listing.bad) == ([], [("k", "not_a_file")])


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """Between members, inside a header, inside content: tarfile takes two of the three for the end."""
    shard = write_shards([sample(k) for k in range(5)], tmp_path, 10)[0]
    data = shard.read_bytes()
    end = whole(shard).samples[-1].video
    last_byte = -(-(end.offset + end.size) // 512) * 512
    cut = tmp_path / "cut.bin"
    for length in [*range(512, last_byte + 1, 512), *range(700, last_byte, 997)]:
        cut.write_bytes(data[:length])
        listing = scan(cut)
        assert listing.truncated
        assert str(cut) in listing.truncated
        assert f"{len(listing.samples)} samples" in listing.truncated
        assert not listing.bad
        for number, member in enumerate(listing.samples):
            assert read(cut, member) == sample(number)
    cut.write_bytes(data + data)
    assert scan(cut).truncated


def test_what_is_not_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    for content in (b"", b"<html>" * 500, b"\x1f\x8b" + b"\0" * 600):
        path.write_bytes(content)
        with pytest.raises(ShardError, match=r"x\.tar is not a tar"):
            scan(path)


def test_reading_refuses_bad_metadata_and_a_changed_shard(tmp_path: Path) -> None:
    contents = [b"{", b"[]", b'{"words": "no caption"}', b'{"caption": 3}', b"[" * 100_000, b"\xff"]
    path = tar_of(tmp_path / "x.tar", *(m for k, c in enumerate(contents) for m in ((f"{k}.json", c), (f"{k}.mp4", MP4))))
    members = scan(path).samples
    assert len(members) == len(contents)
    for member in members:
        with pytest.raises(VideoError) as caught:
            read(path, member)
        assert caught.value.reason == ("no_caption" if member.key in ("2", "3") else "bad_metadata")
    path.write_bytes(b"short")
    with pytest.raises(ShardError, match=r"x\.tar: "):
        read(path, members[0])
