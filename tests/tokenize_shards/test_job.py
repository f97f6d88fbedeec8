"""The offline job: no sample is lost or duplicated, and the bytes do not depend on kills or on the number of tasks."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hitvideo.data.token_shards import TokenDataset
from hitvideo.data.verify import verify
from hitvideo.data.video_shards import list_shards, read, scan
from hitvideo.errors import ConfigError, ShardError
from hitvideo.files import sha256
from hitvideo.settings.data import LimitsSection
from hitvideo.settings.tokenize_shards import TaskSection
from hitvideo.video.decode import decode_clip
from hitvideo.video.encode import encode_mp4
from hitvideo.video.pixels import to_unit
from hitvideo.video_tokenizer.weights import load_video_tokenizer, weights_fingerprint
from tests.samples import tiny_hierarchy
from tests.tokenize_shards.helpers import CLIPS, PER_SHARD, content, save_tokenizer, words
from tokenize_shards import job
from tokenize_shards.__main__ import main, which_task
from tokenize_shards.leases import deal_shards


@pytest.fixture(scope="module")
def undisturbed(weights: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokens")
    assert main(words(weights, videos, out)) == 0
    return out


def receipt_of(out: Path, stem: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / f"{stem}.receipt.json").read_text())
    return found


# ------------------------------------------------------------------------------------------------ output


def test_every_file_is_there(undisturbed: Path) -> None:
    stems = [f"{number:06d}" for number in range(4)]
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("tar", "index.npy", "receipt.json")}
    expected |= {"manifest.json", "manifest.pack", "rejects.jsonl", "contract.json"}
    assert content(undisturbed).keys() == expected
    assert list(verify(undisturbed / "manifest.json")) == []


def test_codes_are_the_tokenizers(undisturbed: Path, weights: Path, videos: Path) -> None:
    """The codes equal those of decoding and encoding each clip alone, in a batch of one."""
    video_tokenizer, clip = load_video_tokenizer(weights)
    samples = [read(shard, member) for shard in list_shards(str(videos)) for member in scan(shard).samples]
    found = list(TokenDataset(undisturbed / "manifest.json"))
    assert [sample.key for sample in found] == [sample.key for sample in samples]
    for sample, tokens in zip(samples, found, strict=True):
        video = torch.from_numpy(to_unit(decode_clip(sample.video, clip, LimitsSection())))[None]
        for mine, theirs in zip(tokens.codes, video_tokenizer.encode(video), strict=True):
            np.testing.assert_array_equal(mine, theirs[0].numpy())
        assert tokens.caption == sample.caption
        assert tokens.metadata == {"fps": 8.0, "source": "moving_shapes"}


def test_the_manifest(undisturbed: Path, weights: Path) -> None:
    hierarchy, clip = tiny_hierarchy()
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert (manifest["samples_in"], manifest["samples_out"], manifest["rejected"]) == (CLIPS, CLIPS, 0)
    assert manifest["grids"] == [list(grid) for grid in hierarchy.grids(clip.extent)]
    assert manifest["hierarchy"] == hierarchy.model_dump(mode="json")
    assert manifest["video"] == clip.model_dump(mode="json")
    assert manifest["video_tokenizer"] == {"fingerprint": weights_fingerprint(weights), "weights": str(weights.resolve())}
    assert [shard["samples_out"] for shard in manifest["shards"]] == [4, 4, 4, 2]
    for shard in manifest["shards"]:
        assert shard == receipt_of(undisturbed, shard["stem"])
        assert shard["tar_sha256"] == sha256(undisturbed / f"{shard['stem']}.tar")
        assert shard["index_sha256"] == sha256(undisturbed / f"{shard['stem']}.index.npy")


# ------------------------------------------------------------------------------------------------ damaged input


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_corrupt_clips_are_rejected_by_name(weights: Path, videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    good = [read(shard, member) for shard in list_shards(str(videos)) for member in scan(shard).samples][:6]
    mp4, caption = good[0].video, b'{"caption": "x"}'
    bad = {
        "truncated": mp4[: len(mp4) // 2],
        "zero_bytes": b"",
        "text": b"this is not a video\n" * 20,
        "one_frame": encode_mp4(np.zeros((1, 32, 32, 3), np.uint8), 8),
        "../outside": mp4,
    }
    (tmp_path / "videos").mkdir()
    with tarfile.open(tmp_path / "videos" / "mixed.tar", "w") as tar:
        for sample, (name, data) in zip(good, [*bad.items(), (good[0].key, mp4)], strict=True):  # the last is a duplicate key
            add(tar, f"{sample.key}.mp4", sample.video)
            add(tar, f"{sample.key}.json", json.dumps(sample.metadata).encode())
            add(tar, f"{name}.mp4", data)
            add(tar, f"{name}.json", caption)
    assert main(words(weights, tmp_path / "videos", tmp_path / "out")) == 0
    receipt = receipt_of(tmp_path / "out", "mixed")
    assert (receipt["samples_in"], receipt["samples_out"], receipt["rejected"]) == (12, 6, 6)
    assert {reject["key"]: reject["reason"] for reject in receipt["rejects"]} == {  # type: ignore[attr-defined]
        "truncated": "corrupt", "zero_bytes": "empty", "text": "corrupt", "one_frame": "too_short",
        "../outside": "bad_name", good[0].key: "duplicate",
    }  # fmt: skip
    for reject in receipt["rejects"]:  # type: ignore[attr-defined]
        assert reject["key"] in reject["message"]
        assert "mixed" in reject["message"]
    expected = {sample.key: sample for sample in TokenDataset(undisturbed / "manifest.json")}
    for sample in TokenDataset(tmp_path / "out" / "manifest.json"):
        for mine, theirs in zip(sample.codes, expected[sample.key].codes, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert not (tmp_path / "outside").exists()
    assert list(verify(tmp_path / "out" / "manifest.json")) == []


def test_a_truncated_shard_loses_only_its_end(weights: Path, videos: Path, tmp_path: Path) -> None:
    shard = list_shards(str(videos))[0]
    last = scan(shard).samples[-1]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / shard.name).write_bytes(shard.read_bytes()[: last.video.offset + 10])
    assert main(words(weights, tmp_path / "videos", tmp_path / "out")) == 0
    receipt = receipt_of(tmp_path / "out", shard.stem)
    assert (receipt["samples_in"], receipt["samples_out"], receipt["rejected"]) == (PER_SHARD, PER_SHARD - 1, 1)
    (reject,) = receipt["rejects"]  # type: ignore[misc]
    assert reject["reason"] == "truncated"  # type: ignore[index]
    assert shard.name in reject["message"]  # type: ignore[index]


def test_a_shard_of_rejects_only(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with tarfile.open(tmp_path / "videos" / "bad.tar", "w") as tar:
        add(tar, "a.mp4", b"no")
        add(tar, "a.json", b'{"caption": "a"}')
        add(tar, "b.mp4", b"no")
        add(tar, "b.json", b"not json")
    with pytest.raises(ShardError, match=r"2 of 2 .*task\.most_rejected.*corrupt 1"):
        main(words(weights, tmp_path / "videos", tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert main(words(weights, tmp_path / "videos", tmp_path / "out", "task.most_rejected=1")) == 0
    receipt = receipt_of(tmp_path / "out", "bad")
    assert (receipt["samples_in"], receipt["samples_out"], receipt["rejected"]) == (2, 0, 2)
    assert [reject["reason"] for reject in receipt["rejects"]] == ["corrupt", "bad_metadata"]  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------ tasks, restarts, stops


def test_one_of_two_tasks_does_the_others_shards_too(
    weights: Path, videos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A task does its own shards first. The other task, started later, finds nothing to do."""
    out = tmp_path / "out"
    assert main(words(weights, videos, out, "task.index=1", "task.count=2")) == 0
    assert content(out) == content(undisturbed)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("0*.receipt.json")}
    own = {shard.stem for shard in deal_shards(list_shards(str(videos)), [4, 4, 4, 2], 2)[1]}
    assert {name[:6] for name in sorted(times, key=lambda name: times[name])[: len(own)]} == own
    assert main(words(weights, videos, out, "task.index=0", "task.count=2")) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("0*.receipt.json")} == times


@pytest.mark.parametrize("first", [0, 5])
def test_a_slurm_array(
    weights: Path, videos: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Both --array=0-2 and --array=5-7 have three tasks."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", str(first))
    for task in range(3):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(first + task))
        assert which_task(TaskSection()) == (task, 3)
    assert main(words(weights, videos, tmp_path / "out")) == 0
    assert content(tmp_path / "out") == content(undisturbed)


def test_more_tasks_than_shards(weights: Path, videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert main(words(weights, videos, tmp_path / "out", "task.index=7", "task.count=9")) == 0
    assert content(tmp_path / "out") == content(undisturbed)


@pytest.mark.parametrize(("more", "message"), [
    (["task.index=1"], r"task\.index.*task\.count"), (["task.count=2"], r"task\.index.*task\.count"),
    (["task.index=2", "task.count=2"], r"task 2 of 2.*0 to 1"),
])  # fmt: skip
def test_refused_tasks(weights: Path, videos: Path, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(words(weights, videos, tmp_path, *more))


def test_the_batch_does_not_decide_the_bytes(weights: Path, videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert main(words(weights, videos, tmp_path, "data.batch=3")) == 0
    assert content(tmp_path) == content(undisturbed)


def test_running_again_does_nothing(weights: Path, videos: Path, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        shards = [path for kind in ("tar", "index.npy", "receipt.json") for path in tmp_path.glob(f"*.{kind}")]
        found = {path.name: path.stat() for path in shards}
        return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in found.items()}

    assert main(words(weights, videos, tmp_path)) == 0
    before, bytes_before = state(), content(tmp_path)
    assert main(words(weights, videos, tmp_path)) == 0
    assert state() == before
    assert content(tmp_path) == bytes_before


def test_missing_shards_are_done_again(weights: Path, videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert main(words(weights, videos, tmp_path)) == 0
    (tmp_path / "000001.receipt.json").unlink()
    (tmp_path / "000001.tar").write_bytes(b"half")
    (tmp_path / "000002.receipt.json").unlink()
    (tmp_path / "000002.tar").unlink()
    left = tmp_path / ".000002.tar.elsewhere-1"
    left.write_bytes(b"left by a kill")
    os.utime(left, (0, 0))
    (tmp_path / "manifest.json").unlink()
    assert main(words(weights, videos, tmp_path)) == 0
    assert content(tmp_path) == content(undisturbed)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} <= {".lock"}


def test_another_tokenizers_receipts_are_refused(weights: Path, videos: Path, tmp_path: Path) -> None:
    other = save_tokenizer(tmp_path / "other", 1)
    out = tmp_path / "out"
    assert main(words(weights, videos, out, "task.index=0", "task.count=4")) == 0
    before = content(out)
    changes = {"video_tokenizer": (other,), "limits": (weights, "limits.max_seconds=5"), "fit": (weights, "data.fit=stretch")}
    for key, (tokenizer_weights, *more) in changes.items():
        with pytest.raises(ConfigError, match=rf"{re.escape(str(out))}.*\b{key}\b"):
            main(words(tokenizer_weights, videos, out, *more))
        assert content(out) == before


@pytest.mark.parametrize("missing", ["video_tokenizer.weights", "data.video_shards", "data.out"])
def test_a_missing_setting_is_named(weights: Path, videos: Path, tmp_path: Path, missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{re.escape(missing)}'"):
        main(words(weights, videos, tmp_path, f"{missing}=null"))


def test_a_stop_request_ends_it_after_a_shard(
    weights: Path, videos: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 75, finished shards are complete, and the same command continues."""
    out, commit = tmp_path / "out", job.commit

    def committed(*arguments: Any, **more: Any) -> bool:
        (tmp_path / "runs" / "tiny-tokens" / "STOP").touch()
        return commit(*arguments, **more)

    monkeypatch.setattr(job, "commit", committed)
    assert main(words(weights, videos, out, "data.batch=1")) == 75
    stems = {path.name[:6] for path in out.glob("*.receipt.json")}
    assert 0 < len(stems) < 4
    monkeypatch.undo()
    assert main(words(weights, videos, out)) == 0
    assert content(out) == content(undisturbed)


def test_a_file_that_is_not_a_tar(weights: Path, videos: Path, tmp_path: Path) -> None:
    """It gives one reject and a token shard without samples."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.tar").write_bytes(list_shards(str(videos))[0].read_bytes())  # type: ignore[union-attr]
    (tmp_path / "videos" / "b.tar").write_bytes(b"junk" * 1000)
    assert main(words(weights, tmp_path / "videos", tmp_path / "out")) == 0
    receipt = receipt_of(tmp_path / "out", "b")
    assert (receipt["samples_in"], receipt["samples_out"], receipt["rejected"]) == (1, 0, 1)
    assert "b.tar" in receipt["rejects"][0]["message"]  # type: ignore[index]
    assert len(TokenDataset(tmp_path / "out" / "manifest.json")) == 4
