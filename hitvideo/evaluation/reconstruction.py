"""How well a video tokenizer reconstructs: quality, bits and codes in use by prefix of levels, and H.264 at the same bits.

hitvideo/metrics/distances.py defines the figures. H.264 is the outside reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hitvideo.data.clips import ClipSource
from hitvideo.data.loader import split
from hitvideo.data.remote import Shard
from hitvideo.data.shard_lists import list_shards
from hitvideo.errors import ConfigError, ShardError, VideoError, short
from hitvideo.hierarchy import Hierarchy
from hitvideo.metrics.code_use import CodeCounts
from hitvideo.metrics.distances import frechet_distance, psnr, ssim
from hitvideo.metrics.i3d import I3D
from hitvideo.metrics.lpips import LPIPS
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.gallery import save_videos
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.video.encode import contact_sheet
from hitvideo.video.h264 import h264_at
from hitvideo.video.pixels import Frames, to_uint8, to_unit
from hitvideo.video_tokenizer.model import VideoTokenizer

log = logging.getLogger(__name__)
_DEAD = 0.1
_MOST_NAMED = 100
EXAMPLES = 4
MOST_CLIPS = 64  # that are measured, where neither the user nor the run says how many
_HALVES = ("slow", "fast")
QUALITY = {"psnr": "PSNR dB", "ssim": "SSIM", "lpips": "LPIPS", "rfvd": "rFVD"}
FVD_CLIPS = 2048
"""FVD is compared at this many clips (StyleGAN-V's protocol). Fewer give far larger distances, so those bear their number:
400 features of one normal distribution, drawn twice, are 548 apart at 64 clips, 299 at 256, 40 at 2,048."""


@dataclass(frozen=True)
class MetricNetworks:
    """Networks whose weights the user gives; without one, its column is left out."""

    lpips: LPIPS | None = None
    i3d: I3D | None = None


@torch.no_grad()
def reconstruction(
    video_tokenizer: VideoTokenizer,
    source: ClipSource,
    samples: Sequence[int],
    progress: Callable[[int], object] | None = None,
    networks: MetricNetworks = MetricNetworks(),
) -> dict[str, Any]:
    """Encode and decode clips; returns the mean PSNR, SSIM, LPIPS and rFVD with the first 1, 2, … levels and of H.264.

    `psnr_by_motion`: PSNR for the half of the clips with less, and with more, change from frame to frame.
    `bit_balance`: min(mean, 1 - mean) of each level's most one-sided bit; 0 means that it never changes.
    `dead_bits`: how many bits are 0 or 1 in more than 90 % of the cells. H.264 gets as many bits as all levels take.
    Clips that cannot be decoded are counted in `skipped` and named in `left_out`. Raises ConfigError if that is every clip.
    """
    device = next(video_tokenizer.parameters()).device
    levels = video_tokenizer.hierarchy.levels
    scores = Scores(networks)
    counts = [CodeCounts(level.num_bits) for level in levels]
    outside_bytes, left_out = 0, list[str]()
    for index in samples:
        if progress:
            progress(1)
        try:
            video = source.tensor(index, 0)[None].to(device)
        except (ShardError, VideoError) as error:
            log.warning("left out of the evaluation: %s", error)
            left_out.append(short(error))
            continue
        codes = video_tokenizer.encode(video)
        shown = list(video_tokenizer.decode_prefixes(codes, video.shape[2]))
        outside, size = _h264(video, video_tokenizer.hierarchy, source.clip.fps)
        outside_bytes += size
        scores.add(video, [*shown, torch.from_numpy(to_unit(outside))[None].to(device)])
        for count, indices in zip(counts, codes, strict=True):
            count.add(indices)
    clips = len(samples) - len(left_out)
    if not clips:
        why = f"the first one: {left_out[0]}" if left_out else "there are none"
        raise ConfigError(f"none of the {len(samples)} clips can be decoded; {why}")
    means = scores.means()
    pixels = clips * source.clip.frames * source.clip.height * source.clip.width
    return {
        "clips": clips,
        "skipped": len(left_out),
        "left_out": left_out[:_MOST_NAMED],
        **{f"{name}_by_prefix": values[:-1] for name, values in means.items()},
        "psnr_by_motion": scores.by_motion(),
        "bpp_by_prefix": np.cumsum([level.bits_per_pixel for level in levels]).round(6).tolist(),
        "codes_used": [count.used for count in counts],
        "codes_possible": [1 << level.num_bits for level in levels],
        "bit_balance": [round(float(count.balance.min()), 3) for count in counts],
        "dead_bits": [int((count.balance < _DEAD).sum()) for count in counts],
        "h264": {
            **{name: values[-1] for name, values in means.items()},
            "bpp": round(8 * outside_bytes / pixels, 6),
        },
    }


def _h264(video: torch.Tensor, hierarchy: Hierarchy, fps: float) -> tuple[Frames, int]:
    """(1, 3, T, H, W) through H.264 at the bits of all levels, and the size in bytes."""
    return h264_at(to_uint8(video[0].cpu().numpy()), hierarchy.bits_per_pixel * video[0, 0].numel() / 8, fps)


def rfvd_name(clips: int) -> str:
    """The key of an rFVD from this many clips."""
    return "rfvd" if clips >= FVD_CLIPS else f"rfvd_n{clips}"


class Scores:
    """Every figure of every clip: a column for each prefix of the levels, and a last one for H.264."""

    def __init__(self, networks: MetricNetworks) -> None:
        self._networks = networks
        self._rows: dict[str, list[list[float]]] = {"psnr": [], "ssim": []}
        if networks.lpips:
            self._rows["lpips"] = []
        self._motion: list[float] = []
        self._features: list[list[torch.Tensor]] = []

    def add(self, video: torch.Tensor, shown: Sequence[torch.Tensor]) -> None:
        """Add a clip (1, 3, T, H, W) and its reconstruction in each column."""
        measures = {"psnr": psnr, "ssim": ssim, "lpips": self._networks.lpips}
        for name, rows in self._rows.items():
            measure = measures[name]
            assert measure is not None
            rows.append([float(measure(decoded, video)) for decoded in shown])
        self._motion.append(float(video.diff(dim=2).abs().mean()))
        if self._networks.i3d:
            self._features.append([self._networks.i3d(each)[0].cpu() for each in (video, *shown)])

    def means(self) -> dict[str, list[float]]:
        """Each figure's mean over the clips, by column; rFVD is one figure for all clips."""
        found = {name: np.mean(rows, axis=0).round(4).tolist() for name, rows in self._rows.items()}
        if self._features:
            originals, *columns = (torch.stack(features) for features in zip(*self._features, strict=True))
            found[rfvd_name(len(originals))] = [round(frechet_distance(column, originals), 3) for column in columns]
        return found

    def by_motion(self) -> dict[str, list[float]]:
        """Mean PSNR by prefix for the slower and the faster half."""
        order = np.argsort(self._motion, kind="stable")
        halves = np.array_split(order, 2)
        rows = np.array(self._rows["psnr"])[:, :-1]
        return {name: rows[half].mean(0).round(4).tolist() for name, half in zip(_HALVES, halves, strict=True) if len(half)}


def reconstruction_table(figures: dict[str, Any]) -> str:
    """The figures of `reconstruction` as a table, a row for each prefix of levels."""
    titles = {**QUALITY, rfvd_name(figures["clips"]): f"rFVD, {figures['clips']} clips"}
    names = [name for name in titles if f"{name}_by_prefix" in figures]
    rows = [("levels", "bpp", *(titles[name] for name in names), "codes used", "bit balance", "dead bits")]
    for k, bpp in enumerate(figures["bpp_by_prefix"]):
        used = f"{figures['codes_used'][k]:,} of {figures['codes_possible'][k]:,}"
        bits = f"{figures['bit_balance'][k]:.3f}", str(figures["dead_bits"][k])
        rows.append((f"0 … {k}", f"{bpp:.5f}", *(f"{figures[f'{name}_by_prefix'][k]:.3f}" for name in names), used, *bits))
    h264 = figures["h264"]
    rows.append(("H.264", f"{h264['bpp']:.5f}", *(f"{h264[name]:.3f}" for name in names), "", "", ""))
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True)) for row in rows)


def choose_clips(
    asked: int | None, include_training: bool, shards: Sequence[Shard], total: int, settings: VideoTokenizerRun | None
) -> tuple[range, int | None]:
    """Which of the `total` clips in `shards` to measure, and how many of them the run was trained on (None: unknown).

    `asked` clips from the end; by default as many as the run holds out of training. `settings`: the run's, if it has any.
    Raises ConfigError if clips of training are among them, unless they are asked for.
    """
    known = settings.data.validation_clips if settings else 0
    own = settings is not None and training_clips(range(total), shards, total, settings) != 0
    held_out = len(split(total, known)[1]) if own else min(known, total)
    measured = range(max(0, total - (asked or held_out or MOST_CLIPS)), total)
    trained = training_clips(measured, shards, total, settings) if settings else None
    if trained and not include_training:
        raise ConfigError(
            f"{trained} of the last {len(measured)} clips were in the run's training, which held out {held_out} "
            f"(data.validation_clips); give --clips {held_out} or fewer, other video shards, or --include-training"
            if held_out
            else f"all {len(measured)} clips were in the run's training (data.validation_clips is {known}); give other "
            f"video shards, or --include-training"
        )
    return measured, trained


def training_clips(measured: range, shards: Sequence[Shard], total: int, settings: VideoTokenizerRun) -> int | None:
    """How many of the measured clips the run was trained on; None if that cannot be told.

    `total`: clips in `shards`. A run holds the last clips of its own shards out of training.
    """
    try:
        trained = [_place(shard) for shard in list_shards(settings.data.video_shards or "")]
    except ConfigError:
        return None
    found = [_place(shard) for shard in shards]
    if not set(found) & set(trained):
        return 0
    if found != trained:
        return None
    return len(range(measured.start, min(measured.stop, len(split(total, settings.data.validation_clips)[0]))))


def _place(shard: Shard) -> str:
    return str(shard.resolve() if isinstance(shard, Path) else shard)


def show_reconstructions(video_tokenizer: VideoTokenizer, source: ClipSource, samples: Sequence[int], run: Path) -> None:
    """Save originals, their reconstructions from 1, 2, … levels and H.264's in the run's gallery, and as one PNG.

    Of the first EXAMPLES samples that can be decoded.
    """
    device = next(video_tokenizer.parameters()).device
    sheet: list[Frames] = []
    shown = 0
    for index in samples:
        if shown == EXAMPLES:
            break
        try:
            video = source.tensor(index, 0)[None]
        except (ShardError, VideoError):
            continue  # `reconstruction` has named it
        shown += 1
        codes = video_tokenizer.encode(video.to(device))
        rows = [("original", to_uint8(video[0].numpy()))]
        for k, decoded in enumerate(video_tokenizer.decode_prefixes(codes, video.shape[2])):
            rows.append((f"level 0 … {k}" if k else "level 0", to_uint8(decoded[0].cpu().numpy())))
        rows.append(("H.264 of as many bytes", _h264(video, video_tokenizer.hierarchy, source.clip.fps)[0]))
        sheet += [frames for _, frames in rows]
        save_videos(run, f"reconstruction-{index}", f"Reconstruction by prefix of levels, clip {index}", rows, source.clip.fps)
    contact_sheet(sheet, RunDirectory(run).samples / "reconstruction.png")
