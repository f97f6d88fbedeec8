"""Token shards: reproducible bytes, readable by webdataset, and all damage is detected."""

from __future__ import annotations

import io
import json
import logging
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import webdataset

from hitvideo.data.manifest import write_manifest
from hitvideo.data.rows import choose_caption
from hitvideo.data.token_format import Records, commit, shard_paths
from hitvideo.data.token_records import TokenSample, pack_codes, parse_sample, unpack_codes
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError, ShardError
from hitvideo.files import sha256
from hitvideo.hierarchy import ClipShape
from tests.samples import make_token_shards

GRIDS = [(1, 2, 2), (2, 4, 4)]


def make_sample(number: int, high: int = 512) -> TokenSample:
    rng = np.random.default_rng(number)
    codes = [rng.integers(0, high, grid) for grid in GRIDS]
    return TokenSample(f"k{number:03d}", codes, f"Zürich 東京 {number}" + "x" * number * 40, {"fps": 8.0, "source": "s"})


def assert_equal(one: TokenSample, other: TokenSample) -> None:
    assert (one.key, one.caption, one.metadata) == (other.key, other.caption, other.metadata)
    for mine, theirs in zip(one.codes, other.codes, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def receipt(count: int, stem: str = "000000") -> dict[str, object]:
    return {"stem": stem, "samples_in": count, "samples_out": count, "rejected": 0}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    samples = [make_sample(k) for k in range(20)]
    one = Records(tmp_path, samples).write(tmp_path / "a.tar")
    other = Records(tmp_path, samples[::-1]).write(tmp_path / "b.tar")  # whatever their order
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    np.testing.assert_array_equal(one, other)


def test_webdataset_reads_it(tmp_path: Path) -> None:
    samples = [make_sample(k) for k in range(12)]
    Records(tmp_path, samples).write(tmp_path / "a.tar")
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    for item, expected in zip(found, samples, strict=True):
        description = json.loads(item["json"])
        flat = np.load(io.BytesIO(item["codes.npy"]))
        codes = unpack_codes(flat, description["grids"])
        assert_equal(TokenSample(item["__key__"], codes, description["caption"], {"fps": 8.0, "source": "s"}), expected)


def test_the_index_finds_every_sample(tmp_path: Path) -> None:
    samples = [make_sample(k) for k in range(30)]
    index = Records(tmp_path, samples).write(tmp_path / "a.tar")
    content = (tmp_path / "a.tar").read_bytes()
    for entry, expected in zip(index, samples, strict=True):
        assert_equal(parse_sample(content[entry["offset"] : entry["offset"] + entry["length"]]), expected)


def test_no_samples(tmp_path: Path) -> None:
    """A video shard whose clips were all rejected."""
    assert commit(tmp_path, "000000", [], receipt(0), "x")
    write_manifest(tmp_path, [json.loads(shard_paths(tmp_path, "000000")[2].read_text())], {})
    assert len(TokenDataset(tmp_path / "manifest.json")) == 0


@pytest.mark.parametrize(("largest", "dtype"), [(0, "uint16"), (65535, "uint16"), (65536, "uint32"), (2**18 - 1, "uint32")])
def test_the_smallest_dtype_that_holds_them(largest: int, dtype: str) -> None:
    codes = [np.zeros((1, 2, 2), np.int64), np.full((2, 2, 2), largest)]
    flat = pack_codes(codes)
    assert flat.dtype == dtype
    for found, expected in zip(unpack_codes(flat, [(1, 2, 2), (2, 2, 2)]), codes, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_codes_that_do_not_fill_the_grids() -> None:
    with pytest.raises(ShardError, match=r"11 .*\[1, 2, 2\], \[2, 2, 2\]"):
        unpack_codes(np.zeros(11, np.uint16), [(1, 2, 2), (2, 2, 2)])


def test_the_first_commit_wins(tmp_path: Path) -> None:
    assert commit(tmp_path, "000000", [make_sample(1)], receipt(1), "first")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert not commit(tmp_path, "000000", [make_sample(2), make_sample(3)], receipt(2), "second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert names(tmp_path) == {"000000.tar", "000000.index.npy", "000000.receipt.json"}  # nothing temporary is left
    tar, index, path = shard_paths(tmp_path, "000000")
    found = json.loads(path.read_text())
    assert (found["tar_sha256"], found["index_sha256"]) == (sha256(tar), sha256(index))


def test_a_failing_commit_leaves_nothing(tmp_path: Path) -> None:
    broken = TokenSample("k", [np.zeros((1, 1, 1), int)], "caption", {"not": object()})
    with pytest.raises(TypeError):
        commit(tmp_path, "000000", [make_sample(1), broken], receipt(2), "x")
    assert names(tmp_path) == set()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_token_shards(tmp_path / "tokens", shards=2, per_shard=5)


def damaged(manifest: Path) -> list[int]:
    """Numbers of the samples that raise, each with its own place in the message."""
    data = TokenDataset(manifest)
    complaints = {}
    for number in range(len(data)):
        try:
            data[number]
        except ShardError as error:
            complaints[number] = str(error)
    for number, complaint in complaints.items():
        assert f"{number // 5:06d}.tar: sample {number % 5} is damaged" in complaint
    return list(complaints)


def test_random_access(dataset: Path) -> None:
    data = TokenDataset(dataset)
    assert len(data) == 10
    assert [sample.key for sample in data] == [f"{shard}-{number:04d}" for shard in range(2) for number in range(5)]
    assert data[7].key == "1-0002"
    assert damaged(dataset) == []


def test_any_flipped_byte_is_seen(dataset: Path) -> None:
    """In the payload, a header or a caption: that sample raises, and no other."""
    tar, index_path, _ = shard_paths(dataset.parent, "000001")
    whole, index = tar.read_bytes(), np.load(index_path)
    for number in range(5):
        start, length = int(index[number]["offset"]), int(index[number]["length"])
        for place in (0, 130, 512, 700, length - 1):
            changed = bytearray(whole)
            changed[start + place] ^= 1
            tar.write_bytes(changed)
            assert damaged(dataset) == [5 + number]


def test_a_tar_cut_at_a_members_border_loses_samples_but_not_silently(dataset: Path) -> None:
    tar, index_path, _ = shard_paths(dataset.parent, "000000")
    border = int(np.load(index_path)[3]["offset"])
    tar.write_bytes(tar.read_bytes()[:border])
    assert damaged(dataset) == [3, 4]
    tar.write_bytes(b"")
    assert damaged(dataset) == [0, 1, 2, 3, 4]


def test_a_missing_tar_and_index_are_named(dataset: Path) -> None:
    tar, index, _ = shard_paths(dataset.parent, "000000")
    tar.unlink()
    with pytest.raises((ShardError, OSError), match=r"000000\.tar"):
        TokenDataset(dataset)[0]
    receipts = [json.loads(shard_paths(dataset.parent, stem)[2].read_text()) for stem in ("000000", "000001")]
    np.save(index, np.load(index)[:-1])
    with pytest.raises(ShardError, match=r"000000\.index\.npy: .*4 .*5"):
        write_manifest(dataset.parent, receipts, {})
    for content in (b"", b"junk", b"\x93NUMPY"):
        index.write_bytes(content)
        with pytest.raises(ShardError, match=r"000000\.index\.npy: "):
            write_manifest(dataset.parent, receipts, {})
    index.unlink()
    with pytest.raises(ShardError, match=r"000000\.index\.npy: "):
        write_manifest(dataset.parent, receipts, {})


def test_a_damaged_pack_is_refused(dataset: Path) -> None:
    pack = dataset.with_suffix(".pack")
    whole = pack.read_bytes()
    for content, kind, message in (
        (whole[:-1], ShardError, f" {len(whole) - 1} .* {len(whole)}"),
        (whole + b"x", ShardError, f" {len(whole) + 1} .* {len(whole)}"),
        (b"", ConfigError, "not a pack"), (b"HVPACK02" + whole[8:], ConfigError, "not a pack"),
        (whole[:100], ShardError, "damaged"),
        (whole[: whole.index(b"000001")] + b"000002" + whole[whole.index(b"000001") + 6 :], ShardError, "checksum"),
    ):  # fmt: skip
        pack.write_bytes(content)
        with pytest.raises(kind, match=message):
            TokenDataset(dataset)


def test_rows_are_the_samples(dataset: Path) -> None:
    data = TokenDataset(dataset)
    numbers = [7, 0, 9, 9, 3]
    rows = data.read(numbers)
    for number, codes, caption in zip(numbers, rows.codes, rows.captions, strict=True):
        np.testing.assert_array_equal(codes, pack_codes(data[number].codes))
        assert json.loads(caption) == data[number].caption
    assert rows.damaged == {}


def test_many_tars_few_handles(tmp_path: Path) -> None:
    data = TokenDataset(make_token_shards(tmp_path, shards=100, per_shard=1))
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [data[number].key for number in range(100)] == [f"{number}-0000" for number in range(100)]
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 65
    del data


def test_loaders_that_come_and_go_leave_few_handles(tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path, shards=100, per_shard=1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        data = TokenDataset(manifest)
        threads = [threading.Thread(target=data.read, args=(range(100),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 66


def test_buckets(tmp_path: Path) -> None:
    """Two clip shapes per shard: each is a dataset of its own, and errors use the tar's own numbering."""
    shapes = [[(1, 2, 2)], [(1, 1, 1), (1, 2, 2)]]
    videos = [{"frames": 4, "height": 16, "width": 16, "fps": 8.0}, {"frames": 1, "height": 16, "width": 16, "fps": 8.0}]
    receipts = []
    for shard, counts in enumerate([(3, 2), (0, 4), (5, 0)]):
        samples = [
            TokenSample(f"{bucket}-{number}", [np.full(grid, 10 * shard + number) for grid in shapes[bucket]], "c", {}, bucket)
            for bucket, count in enumerate(counts) for number in range(count)
        ]  # fmt: skip
        commit(tmp_path, f"s{shard}", samples, receipt(sum(counts), f"s{shard}"), "x")
        receipts.append(json.loads(shard_paths(tmp_path, f"s{shard}")[2].read_text()))
    buckets = [{"video": video, "grids": grids} for video, grids in zip(videos, shapes, strict=True)]
    manifest = write_manifest(tmp_path, receipts, {"buckets": buckets})
    one, other = (TokenDataset(manifest, ClipShape(**video)) for video in videos)
    assert [sample.key for sample in one] == [f"0-{n}" for n in (0, 1, 2, 0, 1, 2, 3, 4)]
    assert [sample.key for sample in other] == [f"1-{n}" for n in (0, 1, 0, 1, 2, 3)]
    assert one.read([0, 4]).codes.tolist() == [[0] * 4, [21] * 4]
    assert other.read([3]).codes.tolist() == [[11] * 5]
    assert one.digest != other.digest
    tar = tmp_path / "s0.tar"
    tar.write_bytes(tar.read_bytes()[: int(np.load(tmp_path / "s0.index.npy")[3]["offset"])])
    assert "s0.tar: sample 3 is damaged" in str(other.read([0]).damaged[0])
    with pytest.raises(ConfigError, match="4×16×16 at 8 fps, 1×16×16 at 8 fps"):
        TokenDataset(manifest, ClipShape(frames=2, height=16, width=16, fps=8))


def test_a_caption_is_chosen_by_weight() -> None:
    text = json.dumps([["a", 1], ["b", 2], ["c", 1]]).encode()
    assert [choose_caption(text, coin) for coin in (0, 0.24, 0.26, 0.74, 0.76, 0.999999)] == list("aabbcc")
    for plain in ("", "Zürich", 'a "quoted" \\ caption\n'):
        assert choose_caption(json.dumps(plain, ensure_ascii=False).encode(), 0.5) == plain


def test_a_sample_of_the_captions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At most so many, drawn by a seed from all shards; what cannot be read is counted in one line."""
    data = TokenDataset(make_token_shards(tmp_path, shards=4, per_shard=50))
    captions = [sample.caption for sample in data]
    assert list(data.captions()) == list(data.captions(most=200)) == list(data.captions(most=10**9)) == captions
    some = list(data.captions(most=40, seed=1))
    assert len(some) == 40
    assert some == list(data.captions(most=40, seed=1)) != list(data.captions(most=40, seed=2))
    assert set(some) < set(captions)
    tar = shard_paths(tmp_path, "000002")[0]
    tar.write_bytes(tar.read_bytes()[:5000])
    with caplog.at_level(logging.WARNING):
        found = list(TokenDataset(tmp_path / "manifest.json").captions())
    kept = (5000 - 1024) // int(np.load(tmp_path / "000002.index.npy")[0]["length"]) + 1
    assert found == captions[: 100 + kept] + captions[150:]
    assert len(caplog.messages) == 1
    assert f"{50 - kept} samples" in caplog.text


def test_several_captions_of_a_sample_count_as_several(tmp_path: Path) -> None:
    captions = [[[f"{k} {n}", 1.0] for n in range(5)] for k in range(20)]
    samples = [TokenSample(f"k{k:03d}", make_sample(k).codes, "0", {"captions": captions[k]}) for k in range(20)]
    assert commit(tmp_path, "000000", samples, receipt(20), "x")
    manifest = write_manifest(tmp_path, [json.loads(shard_paths(tmp_path, "000000")[2].read_text())], {"grids": GRIDS})
    data = TokenDataset(manifest)
    assert len(list(data.captions())) == 100
    assert [len(list(data.captions(most))) for most in (3, 20, 39, 40, 100, 1000)] == [3, 20, 20, 40, 100, 100]
    assert len({text.split()[0] for text in islice(data.captions(most=20), 20)}) == 20


def test_captions_are_found_without_parsing(tmp_path: Path) -> None:
    """For any other metadata in the same JSON."""
    tricky = {"aaa": '"caption": "no"', "nested": {"caption": "no", "captions": []}, "fps": 8.0}
    plain = TokenSample("a", make_sample(1).codes, "yes", tricky)
    several = TokenSample("b", make_sample(2).codes, "one", {**tricky, "captions": [["one", 0.5], ["two", 1.5]]})
    assert commit(tmp_path, "000000", [plain, several], receipt(2), "x")
    description = {"grids": [list(grid) for grid in GRIDS]}
    manifest = write_manifest(tmp_path, [json.loads(shard_paths(tmp_path, "000000")[2].read_text())], description)
    data = TokenDataset(manifest)
    assert [json.loads(text) for text in data.read([0, 1]).captions] == ["yes", [["one", 0.5], ["two", 1.5]]]
    assert list(data.captions()) == ["yes", "one", "two"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"digest": "x"}', '{"digest": "x", "shards": [1]}', "3", "\x00"])
def test_a_file_that_is_not_a_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=r"manifest\.json: .*manifest\.pack"):
        TokenDataset(tmp_path / "manifest.json")
    with pytest.raises(ConfigError, match=r"none\.json: .*no such file"):
        TokenDataset(tmp_path / "none.json")


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    def digest(folder: str, *samples: TokenSample) -> str:
        out = tmp_path / folder
        out.mkdir()
        commit(out, "000000", samples, receipt(len(samples)), "x")
        manifest = write_manifest(out, [json.loads(shard_paths(out, "000000")[2].read_text())], {})
        return TokenDataset(manifest).digest

    one, two = make_sample(1), make_sample(2)
    changed = TokenSample(two.key, [two.codes[0], two.codes[1] ^ np.eye(4, dtype=int)[None]], two.caption, two.metadata)
    found = [digest("a", one, two), digest("b", two, one), digest("c", one), digest("d", one, changed)]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_the_manifest_is_a_function_of_the_receipts(tmp_path: Path) -> None:
    receipts = []
    for stem, count in (("000000", 3), ("000001", 4), ("000002", 5)):
        commit(tmp_path, stem, [make_sample(k) for k in range(count)], receipt(count, stem), "x")
        receipts.append(json.loads(shard_paths(tmp_path, stem)[2].read_text()))
    files = [tmp_path / name for name in ("manifest.json", "manifest.pack", "rejects.jsonl")]
    write_manifest(tmp_path, receipts, {"grids": [[1, 2, 2]]})
    first = [path.read_bytes() for path in files]
    write_manifest(tmp_path, receipts[::-1], {"grids": [[1, 2, 2]]})
    assert [path.read_bytes() for path in files] == first
    manifest = json.loads(first[0])
    assert (manifest["samples_in"], manifest["samples_out"], manifest["rejected"]) == (12, 12, 0)
    assert len(list(tmp_path.glob(".manifest*"))) == 0
    receipts[1]["samples_in"] += 1
    with pytest.raises(ShardError, match=r"13 in = 12 out \+ 0 rejected"):
        write_manifest(tmp_path, receipts, {})
