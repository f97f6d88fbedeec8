"""Packing: every video is packed or counted; the same input gives the same bytes; an interrupted pack is repeated."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from hitvideo.data import pack as pack_module
from hitvideo.data import remote
from hitvideo.data.pack import FINISHED, PackSummary, pack, write_moving_shapes
from hitvideo.data.sources import Choice
from hitvideo.data.video_shards import VideoSample, list_shards, read, scan
from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape
from tests.data.tars import MP4


def files(root: Path, **contents: str | bytes | None) -> Path:
    """Files under a folder by name; of a name without extension the video, with the text as its caption."""
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.suffix:
            path.with_suffix(".mp4").write_bytes(MP4)
            path = path.with_suffix(".txt")
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def samples_of(shards: list[Path]) -> list[VideoSample]:
    listings = [scan(shard) for shard in shards]
    assert not any(listing.bad or listing.truncated for listing in listings)
    return [read(listing.shard, member) for listing in listings for member in listing.samples]


def adds_up(summary: PackSummary) -> bool:
    return summary.found == summary.packed + sum(map(len, summary.left_out.values()))


def reasons(summary: PackSummary) -> dict[str, list[str]]:
    assert adds_up(summary)
    assert len(samples_of(summary.shards)) == summary.packed
    return summary.left_out


def test_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = files(tmp_path / "in", b="a boat\n", a="an ape", c=None, d="  ", **{
        "sub/odd name.v2.WEBM": b"broken", "sub/odd name.v2.txt": "odd", ".DS_Store.mp4": MP4, "notes.txt": "x"})  # fmt: skip
    with caplog.at_level(logging.WARNING):
        summary = pack(root, tmp_path / "out", 10)
    assert (summary.found, summary.packed, summary.no_caption) == (5, 3, ["c.mp4", "d.mp4"])
    assert adds_up(summary)
    assert summary.unreadable == ["sub/odd name.v2.WEBM"]
    assert "c.mp4" in caplog.text
    samples = samples_of(summary.shards)
    assert [(s.key, s.extension, s.caption) for s in samples] == [
        ("a", "mp4", "an ape"), ("b", "mp4", "a boat"), ("sub/odd_name_v2", "webm", "odd")]  # fmt: skip
    assert samples[0].video == MP4
    assert samples[0].metadata["source"] == "a.mp4"
    assert samples[0].metadata["header"]["width"] == 16
    assert samples[2].video == b"broken"


def test_names_in_any_script_and_equal_names_in_two_folders(tmp_path: Path) -> None:
    names = ["東京", "大阪", "кот", "дом", "cam1/0001", "cam2/0001", "a b", "a_b", "A_B", "🐶", "🐱", "x" * 200, "caf\udce9"]
    root = files(tmp_path / "in", **{name: f"caption {number}" for number, name in enumerate(names)})
    summary = pack(root, tmp_path / "out", 5)
    assert reasons(summary) == {}
    samples = samples_of(summary.shards)
    assert {sample.caption for sample in samples} == {f"caption {number}" for number in range(len(names))}
    assert len({sample.key.casefold() for sample in samples}) == len(names)
    assert {"東京", "大阪", "кот", "дом", "cam1/0001", "cam2/0001"} <= {sample.key for sample in samples}


def test_other_kinds_are_counted_or_taken(tmp_path: Path) -> None:
    taken = ("mp4", "3gp", "MTS", "m2ts", "asf", "m2v", "vob", "jpg", "png")
    left = ("gif", "rmvb", "xyz")
    root = files(tmp_path / "in", **{f"v{kind}.{end}": MP4 if end != "txt" else b"x"
                                     for kind in taken + left for end in (kind, "txt")})  # fmt: skip
    files(root, **{"vmp4.jpg": b"its thumbnail", "logo.png": b"no caption", "vmp4.json": b"{}", "failed.txt": b"x"})
    summary = pack(root, tmp_path / "out", 100)
    assert reasons(summary) == {"other_kind": ["logo.png", *(f"v{kind}.{kind}" for kind in left)]}
    assert {sample.extension for sample in samples_of(summary.shards)} == {kind.lower() for kind in taken}


def test_captions_in_other_encodings(tmp_path: Path) -> None:
    words = "Un café “à Zürich”"
    root = files(tmp_path / "in", a=words.encode("utf-8-sig"), b=words.encode("utf-16"), c="Un café".encode("latin-1"))
    files(root, d=words.encode("cp1252"), e="nan", f="一只猫".encode("gbk"))
    summary = pack(root, tmp_path / "out", 10)
    assert reasons(summary) == {"bad_caption": ["c.mp4", "d.mp4", "f.mp4"], "no_caption": ["e.mp4"]}
    assert [sample.caption for sample in samples_of(summary.shards)] == [words] * 2


def test_links(tmp_path: Path) -> None:
    """They are followed inside the folder, once; those that leave it are named."""
    root = files(tmp_path / "in", **{"v1/a": "a", "v1/b": "b"})
    files(tmp_path / "elsewhere", c="c", d="d")
    (root / "latest").symlink_to("v1")
    (root / "v1" / "round").symlink_to("..")
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (root / "c.mp4").symlink_to(tmp_path / "elsewhere" / "c.mp4")
    (root / "c.txt").write_text("c")
    (root / "dead.mp4").symlink_to("nowhere")
    (root / "self.mp4").symlink_to("self.mp4")
    summary = pack(root, tmp_path / "out", 10)
    assert reasons(summary) == {"outside": ["away/", "c.mp4"], "missing": ["dead.mp4", "self.mp4"]}
    assert [sample.caption for sample in samples_of(summary.shards)] == ["a", "b"]
    wider = pack(root, tmp_path / "wider", 10, choice=Choice(root=tmp_path))
    assert reasons(wider) == {"missing": ["dead.mp4", "self.mp4"]}
    assert sorted(sample.caption for sample in samples_of(wider.shards)) == ["a", "b", "c", "c", "d"]


def test_files_that_cannot_be_read_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files(tmp_path / "in", a="a", b="b", c="c", d="d")
    whole = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name in ("b.mp4", "c.txt"):
            raise OSError(5, "EIO", str(path))
        return whole(path)

    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(Path, "read_bytes", failing)
    summary = pack(root, tmp_path / "out", 2)
    assert reasons(summary) == {"cannot_read": ["c.mp4", "b.mp4"]}
    assert json.loads((tmp_path / "out" / FINISHED).read_text()) == {
        "found": 4, "packed": 2, "left_out": {"cannot_read": 2}, "shards": 1}  # fmt: skip
    monkeypatch.setattr(pack_module, "persistently", lambda action, what: failing(Path("b.mp4")))
    with pytest.raises(ConfigError, match="none of 4"):
        pack(root, tmp_path / "none", 2)


def test_the_order_is_shuffled_by_seed(tmp_path: Path) -> None:
    root = files(tmp_path / "in", **{f"{number:03d}": f"c{number}" for number in range(100)})
    orders = {}
    for name, seed in (("kept", None), ("0", 0), ("again", 0), ("1", 1)):
        shards = pack(root, tmp_path / name, 30, shuffle=seed).shards
        orders[name] = [sample.key for sample in samples_of(shards)], [shard.read_bytes() for shard in shards]
    assert orders["kept"][0] == sorted(orders["kept"][0])
    assert orders["0"] == orders["again"]
    assert orders["0"][0] != orders["1"][0]
    assert sorted(orders["0"][0]) == sorted(orders["1"][0]) == orders["kept"][0]
    moved = [abs(place - int(key)) for place, key in enumerate(orders["0"][0])]
    assert 20 < sum(moved) / 100 < 47  # 33 on average
    before = [key for key in orders["0"][0] if key != "050"]
    (root / "050.mp4").unlink()
    assert [sample.key for sample in samples_of(pack(root, tmp_path / "fewer", 30, shuffle=0).shards)] == before


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    root = files(tmp_path / "in", a="a", b="b", c=None)
    summary = pack(root, tmp_path / "out", 1, dry_run=True)
    assert adds_up(summary)
    assert (summary.packed, summary.shards, (tmp_path / "out").exists()) == (2, [], False)


def test_an_interrupted_pack_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files(tmp_path / "in", **{f"{number}": "x" for number in range(5)})
    expected = [shard.read_bytes() for shard in pack(root, tmp_path / "expected", 2).shards]
    out, probe, calls = tmp_path / "out", pack_module.probe, []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return probe(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pack_module, "probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(root, out, 2)
    assert list(out.glob("*.tar"))
    assert not (out / FINISHED).exists()
    (out / ".000001.tar.host-1").write_bytes(b"left by a kill")
    (out / "000007.tar").write_bytes(b"of a longer list")
    assert [shard.read_bytes() for shard in pack(root, out, 2).shards] == expected
    assert sorted(path.name for path in out.iterdir()) == ["000000.tar", "000001.tar", "000002.tar", FINISHED]
    with pytest.raises(ConfigError, match=r"\.tar files"):
        pack(root, out, 2)


def test_two_packs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    root = files(tmp_path / "in", a="a", b="b")

    def second(_: int) -> None:
        with pytest.raises(ConfigError, match="another process"):
            pack(root, tmp_path / "out", 1)

    assert pack(root, tmp_path / "out", 1, second).packed == 2


def test_refused_places(tmp_path: Path) -> None:
    root = files(tmp_path / "in", a="a")
    files(tmp_path, **{"file.tar": b"x", "full/mine.txt": b"x", "empty/x/.keep": b""})
    (tmp_path / "loop").symlink_to(root)
    for out, words in (
        ("file.tar", "is a file"), ("full", "mine.txt"), ("in/out", "inside"), ("in", "not empty"), ("loop/out", "inside"),
        ("file.tar/out", "file.tar"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            pack(root, tmp_path / out, 1)
    with pytest.raises(ConfigError, match="/proc"):
        pack(root, Path("/proc/x"), 1)
    for src, words in (("absent", "absent is neither"), ("empty", "no videos found"), ("in/a.mp4", "not a table")):
        with pytest.raises(ConfigError, match=words):
            pack(tmp_path / src, tmp_path / "out", 1)
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        pack(root, tmp_path / "out", 0)
    with pytest.raises(ConfigError, match="table"):
        pack(root, tmp_path / "out", 1, choice=Choice(smallest=(("score", 1.0),)))
    assert not (tmp_path / "out").exists()
    assert sorted(os.listdir(tmp_path / "full")) == ["mine.txt"]


@pytest.mark.parametrize(("changed", "words"), [
    ({"seed": -1}, "seed"), ({"seed": 1 << 63}, "seed"), ({"num": 0}, "at least 1"), ({"per_shard": 0}, "at least 1"),
    ({"clip": ClipShape(frames=4, height=4, width=4, fps=8)}, "4×4"),
    ({"clip": ClipShape(frames=4, height=33, width=32, fps=8)}, "33×32"),
])  # fmt: skip
def test_moving_shapes_refuse(tmp_path: Path, changed: dict[str, object], words: str) -> None:
    known = {"num": 1, "seed": 0, "clip": ClipShape(frames=4, height=32, width=32, fps=8), "objects": "2", "per_shard": 4}
    with pytest.raises(ConfigError, match=words):
        write_moving_shapes(tmp_path / "out", **{**known, **changed})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_smallest_moving_shapes_find_room(tmp_path: Path) -> None:
    for width in (16, 400):
        clip = ClipShape(frames=1, height=16, width=width, fps=8)
        assert write_moving_shapes(tmp_path / str(width), 40, 0, clip, "2", 40) == list_shards(str(tmp_path / str(width)))


def test_a_folder_without_captions_names_the_table_that_may_have_them(tmp_path: Path) -> None:
    root = files(tmp_path / "in", a=None, b=None, **{"MANIFEST.tsv": "file\tcaption\na.mp4\tan ape\n"})
    with pytest.raises(ConfigError, match=r"2 no_caption.*give .*MANIFEST\.tsv"):
        pack(root, tmp_path / "out", 10)
    assert pack(root / "MANIFEST.tsv", tmp_path / "out", 10).packed == 1
    (root / "MANIFEST.tsv").unlink()
    with pytest.raises(ConfigError, match=r"no_caption, such as a\.mp4$"):
        pack(root, tmp_path / "other", 10)
