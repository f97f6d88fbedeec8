"""From videos to tokens: buckets, several clips, fits, captions, pictures, URLs, retried rejects and wrong devices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hitvideo.data.token_shards import TokenDataset
from hitvideo.data.verify import verify
from hitvideo.data.video_shards import VideoSample, scan, write_shards
from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape
from hitvideo.reports.inspection import decode_sample
from hitvideo.settings.data import LimitsSection
from hitvideo.settings.programs import TokenizeRun, load_settings_as
from hitvideo.video.decode import decode_clip
from hitvideo.video.encode import contact_sheet, encode_mp4
from hitvideo.video.pixels import to_uint8, to_unit
from hitvideo.video_tokenizer.weights import load_video_tokenizer
from tests.tokenize_shards.helpers import words
from tokenize_shards.__main__ import main
from tokenize_shards.encoder import DeviceTokenizer, bit_agreement, golden_clip
from tokenize_shards.recipe import Recipe, decode_member

BUCKETS = (
    "data.buckets=[{frames: 8, height: 32, width: 32, fps: 8}, {frames: 16, height: 32, width: 64, fps: 8},"
    " {frames: 8, height: 32, width: 64, fps: 8}, {frames: 1, height: 32, width: 32, fps: 8}]"
)


def grey(frames: int, height: int, width: int) -> bytes:
    """Return an mp4 that gets brighter from frame to frame."""
    levels = np.linspace(20, 230, frames).astype(np.uint8)[:, None, None, None]
    return encode_mp4(np.broadcast_to(levels, (frames, height, width, 3)).copy(), 8)


def pack(out: Path, *samples: tuple[str, bytes, str, dict]) -> Path:
    write_shards((VideoSample(key, video, kind, metadata) for key, video, kind, metadata in samples), out, 100)
    return out


def receipt(out: Path) -> dict:
    return json.loads((out / "000000.receipt.json").read_text())


def test_buckets(weights: Path, tmp_path: Path) -> None:
    """A video gets the nearest shape, then the longest it fills; pictures and very short videos get the one-frame bucket."""
    contact_sheet([np.full((1, 60, 60, 3), 200, np.uint8)], tmp_path / "x.png")
    caption = {"caption": "grey"}
    videos = pack(
        tmp_path / "videos",
        ("square", grey(9, 48, 48), "mp4", caption), ("wide-long", grey(20, 32, 64), "mp4", caption),
        ("wide-short", grey(9, 36, 64), "mp4", caption), ("picture", (tmp_path / "x.png").read_bytes(), "png", caption),
        ("tall", grey(9, 96, 48), "mp4", caption), ("tiny", grey(2, 36, 64), "mp4", caption),
    )  # fmt: skip
    assert main(words(weights, videos, tmp_path / "out", BUCKETS)) == 0
    manifest = tmp_path / "out" / "manifest.json"
    clips = load_settings_as(TokenizeRun, *_split(words(weights, videos, tmp_path / "out", BUCKETS))).data.buckets
    found = [[sample.key for sample in TokenDataset(manifest, clip)] for clip in clips]
    assert found == [["square", "tall"], ["wide-long"], ["wide-short"], ["picture", "tiny"]]
    assert list(verify(manifest)) == []
    video_tokenizer, _ = load_video_tokenizer(weights)
    (sample,) = TokenDataset(manifest, clips[1])
    video = torch.from_numpy(to_unit(decode_clip(grey(20, 32, 64), clips[1], LimitsSection())))[None]
    for ours, theirs in zip(sample.codes, video_tokenizer.encode(video), strict=True):
        np.testing.assert_array_equal(ours, theirs[0].numpy())


def _split(line: list[str]) -> tuple[str, list[str]]:
    return line[0], line[1:]


def test_several_clips_of_one_video(weights: Path, tmp_path: Path) -> None:
    video = grey(30, 32, 32)
    videos = pack(tmp_path / "videos", ("a", video, "mp4", {"caption": "x"}), ("b", grey(9, 32, 32), "mp4", {"caption": "y"}))
    more = ["data.clips_per_video=5", "data.clip_stride=1.25", "data.batch=3"]
    assert main(words(weights, videos, tmp_path / "out", *more)) == 0
    assert (receipt(tmp_path / "out")["videos"], receipt(tmp_path / "out")["samples_out"]) == (2, 4)
    samples = {sample.key: sample for sample in TokenDataset(tmp_path / "out" / "manifest.json")}
    assert list(samples) == ["a@000", "a@001", "a@002", "b@000"]  # 30 frames at 8 fps hold clips from 0, 1.25 and 2.5 s
    video_tokenizer, clip = load_video_tokenizer(weights)
    for number in range(3):
        frames = decode_clip(video, clip, LimitsSection(), start=number * 1.25)
        codes = video_tokenizer.encode(torch.from_numpy(to_unit(frames))[None])
        for ours, theirs in zip(samples[f"a@{number:03d}"].codes, codes, strict=True):
            np.testing.assert_array_equal(ours, theirs[0].numpy())
    with pytest.raises(ConfigError, match=r"data\.clip_stride 0\.5\b.*\b1\b"):
        main(words(weights, videos, tmp_path / "other", "data.clip_stride=0.5"))


@pytest.mark.parametrize(("fit", "edge", "centre"), [("cover", 200, 200), ("contain", 0, 200), ("stretch", 200, 200)])
def test_fits(tmp_path: Path, fit: str, edge: int, centre: int) -> None:
    wide = encode_mp4(np.full((2, 32, 64, 3), 200, np.uint8), 8)
    shard = pack(tmp_path, ("a", wide, "mp4", {"caption": "x"})) / "000000.tar"
    recipe = Recipe((ClipShape(frames=1, height=32, width=32, fps=8),), fit, 1, None, LimitsSection())  # type: ignore[arg-type]
    (frames,) = decode_member(shard, scan(shard).samples[0], recipe).clips
    assert frames.shape == (1, 32, 32, 3)
    assert abs(int(frames[0, 2, 16, 0]) - edge) < 6
    assert abs(int(frames[0, 16, 16, 0]) - centre) < 6


def test_captions_with_weights(weights: Path, tmp_path: Path) -> None:
    video = grey(9, 32, 32)
    videos = pack(
        tmp_path / "videos",
        ("several", video, "mp4", {"caption": "old", "captions": [["short", 3], ["much longer", 1]]}),
        ("plain", video, "mp4", {"captions": ["one", "two"]}),
        ("wrong", video, "mp4", {"captions": [["negative", -1]]}), ("none", video, "mp4", {"captions": []}),
        ("mute", video, "mp4", {"source": "x"}),
    )  # fmt: skip
    assert main(words(weights, videos, tmp_path / "out", "task.most_rejected=1")) == 0
    found = {sample.key: sample.captions for sample in TokenDataset(tmp_path / "out" / "manifest.json")}
    assert found == {"several": [("short", 3.0), ("much longer", 1.0)], "plain": [("one", 1.0), ("two", 1.0)]}
    reasons = {reject["key"]: reject["reason"] for reject in receipt(tmp_path / "out")["rejects"]}
    assert reasons == dict.fromkeys(("wrong", "none", "mute"), "no_caption")


def test_a_url(weights: Path, videos: Path, tmp_path: Path) -> None:
    assert main(words(weights, f"file://{videos}", tmp_path / "url" / "out")) == 0
    assert main(words(weights, videos, tmp_path / "out")) == 0
    for name in ("manifest.json", "000003.tar"):
        assert (tmp_path / "url" / "out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    with pytest.raises(ConfigError, match="nosuch://x"):
        main(words(weights, "nosuch://x", tmp_path / "out"))


def test_retrying_rejects(weights: Path, tmp_path: Path) -> None:
    """A sample that decodes now is added; nothing else changes."""
    video = grey(9, 32, 32)
    videos = pack(tmp_path / "videos", ("a", video, "mp4", {"caption": "x"}), ("b", b"no video", "mp4", {"caption": "y"}))
    out = tmp_path / "out"
    assert main(words(weights, videos, out)) == 0
    before = TokenDataset(out / "manifest.json")[0]
    for path in videos.iterdir():
        path.unlink()
    pack(videos, ("a", video, "mp4", {"caption": "x"}), ("b", video, "mp4", {"caption": "y"}))
    with pytest.raises(ConfigError, match=r"000000\.receipt\.json"):
        main(words(weights, videos, out))
    assert receipt(out)["rejected"] == 1, "without --retry-rejects, finished shards do not change"
    assert main(["--retry-rejects", *words(weights, videos, out)]) == 0
    after = list(TokenDataset(out / "manifest.json"))
    assert [sample.key for sample in after] == ["a", "b"]
    for mine, theirs in zip(before.codes, after[0].codes, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (out / "rejects.jsonl").read_text() == ""
    assert list(verify(out / "manifest.json")) == []


def test_a_wrong_device_is_refused(weights: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real bf16 passes; a device that gives wrong codes does not."""
    run = load_settings_as(TokenizeRun, *_split(words(weights, videos, tmp_path / "out", "data.dtype=bf16")))
    assert DeviceTokenizer(run).dtype == torch.bfloat16
    encode = DeviceTokenizer.__call__

    def wrong(device_tokenizer: DeviceTokenizer, clips: list) -> list[torch.Tensor]:
        return [indices.flip(-1) ^ 0b10101 for indices in encode(device_tokenizer, clips)]

    monkeypatch.setattr(DeviceTokenizer, "__call__", wrong)
    with pytest.raises(ConfigError, match=r"level 0\b.*data\.agreement.* 90\.0 %"):
        DeviceTokenizer(run)


def test_agreement_counts_bits() -> None:
    one = torch.tensor([0b1111, 0b0000])
    assert bit_agreement(one, one, 4) == 1
    assert bit_agreement(one, torch.tensor([0b1110, 0b0011]), 4) == 1 - 3 / 8
    clip = golden_clip(ClipShape(frames=5, height=16, width=24, fps=8))
    assert clip.shape == (5, 16, 24, 3)
    assert clip.std() > 50


def test_a_sample_is_drawn_level_by_level(weights: Path, tmp_path: Path) -> None:
    video = grey(9, 32, 32)
    videos = pack(tmp_path / "videos", ("a", video, "mp4", {"caption": "x"}))
    assert main(words(weights, videos, tmp_path / "out")) == 0
    rows = decode_sample(tmp_path / "out" / "000000.tar", "a")
    video_tokenizer, clip = load_video_tokenizer(weights)
    codes = video_tokenizer.encode(torch.from_numpy(to_unit(decode_clip(video, clip, LimitsSection())))[None])
    assert [row.shape for row in rows] == [(8, 32, 32, 3)] * 4
    for k, row in enumerate(rows, 1):
        np.testing.assert_array_equal(row, to_uint8(video_tokenizer.decode(codes[:k], 8)[0].numpy()))
    with pytest.raises(ConfigError, match="'b'"):
        decode_sample(tmp_path / "out" / "000000.tar", "b")


@pytest.mark.slow
def test_one_mlflow_run_for_all_tasks(weights: Path, videos: Path, tmp_path: Path) -> None:
    import mlflow

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for task in range(2):
        more = [f"task.index={task}", "task.count=2", "tracking.enabled=true", f"tracking.uri={store}"]
        assert main(words(weights, videos, tmp_path / "out", *more)) == 0
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("hitvideo").experiment_id])
    assert run.data.metrics["task_0/speed/clips"] == 14
    assert run.data.metrics["task_1/speed/clips"] == 0
    assert run.data.params["data.fit"] == "cover"
