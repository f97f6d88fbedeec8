"""Video shards: byte-reproducible, readable by webdataset, and every fault of a tar is reported."""

import io
import json
import logging
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from hitvideo.data.pack import pack, write_moving_shapes
from hitvideo.data.video_shards import ShardListing, VideoSample, list_shards, read, scan, write_shards
from hitvideo.errors import ConfigError, ShardError
from hitvideo.hierarchy import ClipShape
from hitvideo.moving_shapes.scenes import parse
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import VideoError, decode_clip
from hitvideo.video.encode import encode_mp4

CLIP = ClipShape(frames=4, height=32, width=32, fps=8)
MP4 = encode_mp4(np.full((2, 16, 16, 3), 90, np.uint8), 8)


def sample(number: int, extension: str = "mp4") -> VideoSample:
    metadata = {"caption": f"Zürich 東京 {number}", "source": f"clip {number}.{extension}"}
    return VideoSample(f"k{number}", bytes([number]) * (700 + number), extension, metadata)


def tar_of(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


JSON = b'{"caption": "a"}'


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
    contents = [b"{", b"[]", b'{"text": "no caption"}', b'{"caption": 3}', b"[" * 100_000, b"\xff"]
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


def folder_of(root: Path, **captions: str | None) -> Path:
    root.mkdir()
    for stem, text in captions.items():
        (root / f"{stem}.mp4").write_bytes(MP4)
        if text is not None:
            (root / f"{stem}.txt").write_text(text)
    return root


def all_of(path: Path) -> list[VideoSample]:
    return [read(path, member) for member in whole(path).samples]


def test_pack_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path / "in", b="a boat\n", a="an ape", c=None, d="  ")
    (root / "sub").mkdir()
    (root / "sub" / "odd name.v2.WEBM").write_bytes(b"broken")
    (root / "sub" / "odd name.v2.txt").write_text("odd")
    (root / ".DS_Store.mp4").write_bytes(MP4)
    with caplog.at_level(logging.WARNING):
        summary = pack(root, tmp_path / "out", 10)
    assert (summary.found, summary.packed, summary.no_caption) == (5, 3, ["c.mp4", "d.mp4"])
    assert summary.unreadable == ["sub/odd name.v2.WEBM"]
    assert "'c.mp4' has no caption" in caplog.text
    samples = all_of(summary.shards[0])
    assert [(s.key, s.extension, s.caption) for s in samples] == [
        ("a", "mp4", "an ape"), ("b", "mp4", "a boat"), ("odd_name_v2", "webm", "odd")]  # fmt: skip
    assert samples[0].video == MP4
    assert samples[0].metadata["source"] == "a.mp4"
    assert samples[0].metadata["header"]["width"] == 16
    assert samples[2].video == b"broken"


def tsv(root: Path, text: str) -> Path:
    path = root / "list.tsv"
    path.write_text(text)
    return path


def test_pack_a_tsv(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "in", a=None, b=None)
    path = tsv(root, 'file\tlicence\tcaption\na.mp4\tCC0\tsaid "so"\nb.mp4\tMIT\t\n')
    summary = pack(path, tmp_path / "out", 10)
    assert (summary.found, summary.packed, summary.no_caption) == (2, 1, ["b.mp4"])
    samples = all_of(summary.shards[0])
    assert samples[0].caption == 'said "so"'
    assert samples[0].metadata["licence"] == "CC0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\ttext\na.mp4\tx\n", "no column 'caption'"),
        ("file\tcaption\n", "no videos found"),
        ("file\tcaption\n../out.mp4\tx\n", "line 2: '../out.mp4'"),
        ("file\tcaption\n/etc/x.mp4\tx\n", "line 2: '/etc/x.mp4'"),
        ("file\tcaption\nlink.mp4\tx\n", "line 2: 'link.mp4'"),
        ("file\tcaption\nabsent.mp4\tx\n", "line 2: 'absent.mp4'"),
        ("file\tcaption\nlist.tsv\tx\n", "line 2: 'list.tsv'"),
        ("file\tcaption\na.mp4\tx\ta tab\n", "line 2: more fields than the 2 columns"),
        ("file\tcaption\na.mp4\tx\na.mp4\ty\n", "the key 'a'"),
        ("file\tcaption\na.mp4\t\n", "none of 1 videos"),
    ],
)
def test_pack_refuses_a_tsv(tmp_path: Path, text: str, message: str) -> None:
    root = folder_of(tmp_path / "in", a=None)
    (tmp_path / "out.mp4").write_bytes(MP4)
    (root / "link.mp4").symlink_to(tmp_path / "out.mp4")
    with pytest.raises(ConfigError) as caught:
        pack(tsv(root, text), tmp_path / "out", 10)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_pack_refuses_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no videos found"):
        pack(tmp_path / "empty", tmp_path / "out", 10)
    with pytest.raises(ConfigError, match="absent is neither"):
        pack(tmp_path / "absent", tmp_path / "out", 10)
    root = folder_of(tmp_path / "in", **{"a b": "x", "a_b": "y"})
    with pytest.raises(ConfigError, match=r"'a b\.mp4' and 'a_b\.mp4' .*'a_b'"):
        pack(root, tmp_path / "out", 10)
