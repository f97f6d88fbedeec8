"""What each level of a video tokenizer means: can the scene be read from its pixels, and from its codes?

On moving shapes, whose scenes are known. For every prefix of the levels:

    pixel probe     the clip is decoded from these levels alone, and the probe of hitvideo/moving_shapes reads the scene. That
                    is the most that a language model which draws these levels perfectly could show
    linear probe    a linear classifier reads an attribute from these levels' quantised values. A language model learns easily
                    what is linear in its codes

Two more rows say what the autoencoder loses without quantisation, and what the probe reads from the clips themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hitvideo.data.pack import FINISHED
from hitvideo.errors import ConfigError
from hitvideo.evaluation.linear_probe import classify
from hitvideo.files import read_json
from hitvideo.hierarchy import ClipShape
from hitvideo.metrics.code_use import CodeCounts
from hitvideo.metrics.distances import psnr
from hitvideo.metrics.intervals import share, share_text
from hitvideo.moving_shapes import probe, scoring
from hitvideo.moving_shapes.scenes import Combinations, Frames, Objects, Scene, render, scenes
from hitvideo.settings.data import LimitsSection
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.video.decode import decode_clip
from hitvideo.video.encode import encode_mp4
from hitvideo.video.pixels import to_uint8, to_unit
from hitvideo.video_tokenizer.hierarchical_quantizer import LevelQuantizer
from hitvideo.video_tokenizer.model import VideoTokenizer

ShownScene = tuple[Frames, Scene]
BATCH = 16
UNQUANTISED, ORIGINALS = "unquantised", "originals"


def rendered(
    num: int,
    seed: int,
    clip: ClipShape,
    objects: Objects = "1",
    hold_out: float = 0.0,
    combinations: Combinations = "all",
) -> Iterator[ShownScene]:
    """Clips of scenes 0 … num-1 of a seed and what they show, through H.264 as a dataset's clips are."""
    for _, scene, rng in scenes(num, seed, objects, hold_out, combinations):
        yield decode_clip(encode_mp4(render(scene, clip, rng), clip.fps), clip, LimitsSection()), scene


def refuse_training_seed(settings: VideoTokenizerRun, seed: int) -> None:
    """Raise ConfigError if the run was trained on moving shapes of this seed, as far as its video shards still say so."""
    folder = Path(settings.data.video_shards or "")
    if settings.data.video_shards and (folder / FINISHED).is_file():
        made = read_json(folder / FINISHED, "record of a packed dataset").get("moving_shapes")
        if isinstance(made, dict) and made.get("seed") == seed:
            raise ConfigError(f"--seed {seed} is that of the run's training clips in {folder}; give another")


def meaning(
    video_tokenizer: VideoTokenizer,
    clips_with_scenes: Sequence[ShownScene],
    fitted: Sequence[ShownScene] | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Measure clips (uint8 (T, H, W, 3)) with their scenes; `fitted` are others that the linear probe is fitted to.

    Without `fitted`, the linear probe is fitted to the first half of the clips and measured on the second. Returns `rows`,
    one for each prefix of levels and then UNQUANTISED and ORIGINALS: `psnr` in dB, `pixels` and `linear` with
    `rate`, `low` and `high` for every attribute, tokens, bits, and the codes in use of the row's finest level.
    Raises ConfigError for too few clips.
    """
    if len(clips_with_scenes) < 4:
        raise ConfigError(f"{len(clips_with_scenes)} clips are too few to measure meaning on; give at least 4")
    shown = pixel_ceiling(video_tokenizer, clips_with_scenes, progress)
    measured = features_by_prefix(video_tokenizer, clips_with_scenes, None)
    truth = [scene for _, scene in clips_with_scenes]
    if fitted is None:
        middle = len(truth) // 2
        known, labels = [part[:middle] for part in measured], truth[:middle]
        measured, asked = [part[middle:] for part in measured], truth[middle:]
    else:
        known, labels, asked = features_by_prefix(video_tokenizer, fitted, progress), [scene for _, scene in fitted], truth
    for row, learn, test in zip(shown["rows"], known, measured, strict=False):  # the originals have no features
        row["linear"] = {name: _linear(name, learn, labels, test, asked) for name in scoring.ATTRIBUTES}
    return {**shown, "fitted_clips": len(labels), "linear_clips": len(asked)}


def pixel_ceiling(
    video_tokenizer: VideoTokenizer, clips_with_scenes: Sequence[ShownScene], progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """The rows of `meaning` without its linear probe: what the pixels of reconstructions show, by prefix of levels."""
    levels = video_tokenizer.hierarchy.levels
    found: list[list[Scene | None]] = [[] for _ in range(len(levels) + 2)]
    quality: list[list[float]] = [[] for _ in range(len(levels) + 1)]
    counts = [CodeCounts(level.num_bits) for level in levels]
    for video, codes, latents in _encoded(video_tokenizer, clips_with_scenes, progress):
        decoded = [*video_tokenizer.decode_prefixes(codes, video.shape[2]), _decode_latents(video_tokenizer, latents, video)]
        for number, shown in enumerate([*decoded, video]):
            found[number] += [probe.read(to_uint8(each)) for each in shown.float().cpu().numpy()]
            if shown is not video:
                quality[number] += psnr(shown, video).tolist()
        for count, indices in zip(counts, codes, strict=True):
            count.add(indices)
    truth = [scene for _, scene in clips_with_scenes]
    cells = [grid.cells for grid in video_tokenizer.hierarchy.grids(_extent(clips_with_scenes))]
    rows: list[dict[str, Any]] = []
    for k, level in enumerate(levels):
        bits = sum(each * other.num_bits for each, other in zip(cells[: k + 1], levels, strict=False))
        used = {"codes_used": counts[k].used, "codes_possible": 1 << level.num_bits}
        rows.append({"levels": k + 1, "tokens": sum(cells[: k + 1]), "bits": bits, **used})
    rows += [{"levels": UNQUANTISED}, {"levels": ORIGINALS}]
    for row, seen in zip(rows, found, strict=True):
        row["pixels"] = scoring.shares(truth, seen)
        row["nothing_seen"] = sum(scene is None for scene in seen)
    for row, values in zip(rows, quality, strict=False):
        row["psnr"] = round(sum(values) / len(values), 4)
    return {"clips": len(truth), "chance": scoring.CHANCE, "rows": rows}


@torch.no_grad()
def features_by_prefix(
    video_tokenizer: VideoTokenizer, clips: Sequence[ShownScene], progress: Callable[[int], object] | None
) -> list[Tensor]:
    """What the linear probe reads of every clip, (clips, features): the values of levels 0 … k, and last the latents."""
    batches: list[list[Tensor]] = []
    for _, codes, latents in _encoded(video_tokenizer, clips, progress):
        quantizers = (cast(LevelQuantizer, level).quantizer for level in video_tokenizer.quantizer.levels)
        values = [each.values(indices).flatten(1) for each, indices in zip(quantizers, codes, strict=True)]
        prefixes = [torch.cat(values[: k + 1], dim=1) for k in range(len(values))]
        batches.append([*prefixes, latents.flatten(1)])
    return [torch.cat(parts).float().cpu() for parts in zip(*batches, strict=True)]


@torch.no_grad()
def _encoded(
    video_tokenizer: VideoTokenizer, clips: Sequence[ShownScene], progress: Callable[[int], object] | None
) -> Iterator[tuple[Tensor, list[Tensor], Tensor]]:
    """Batches of videos in [-1, 1] with their codes, and their latents (B, C, t, h, w) without quantisation."""
    device = next(video_tokenizer.parameters()).device
    for start in range(0, len(clips), BATCH):
        part = clips[start : start + BATCH]
        video = torch.stack([torch.from_numpy(to_unit(frames)) for frames, _ in part]).to(device)
        whole = torch.zeros(len(part), dtype=torch.long, device=device)
        quantized = video_tokenizer.quantize(video, whole)  # a prefix of 0 levels: the latents pass unquantised
        yield video, quantized.codes, quantized.latents
        if progress:
            progress(len(part))


@torch.no_grad()
def _decode_latents(video_tokenizer: VideoTokenizer, latents: Tensor, video: Tensor) -> Tensor:
    decoded: Tensor = video_tokenizer.decoder(latents)
    return decoded[:, :, -video.shape[2] :].clamp(-1, 1)


def _extent(clips: Sequence[ShownScene]) -> Any:
    frames = clips[0][0]
    return ClipShape(frames=frames.shape[0], height=frames.shape[1], width=frames.shape[2], fps=1).extent


def _linear(
    name: str, fitted: Tensor, labels: Sequence[Scene], measured: Tensor, truth: Sequence[Scene]
) -> dict[str, float]:
    guessed = classify(fitted, [_label(scene, name) for scene in labels], measured)
    return share(sum(guess == _label(scene, name) for guess, scene in zip(guessed, truth, strict=True)), len(truth))


def _label(scene: Scene, name: str) -> str:
    """An attribute of a scene; of two things both."""
    return scene.background if name == "background" else " and ".join(getattr(thing, name) for thing in scene.things)


def meaning_table(figures: dict[str, Any]) -> str:
    """The rows of `meaning` as a table for people: shares with their 95 % intervals."""
    lines = []
    titles = {"pixels": "Read from the pixels of reconstructions", "linear": "Read by a linear probe from the codes"}
    for kind, title in titles.items():
        rows = [row for row in figures["rows"] if kind in row]
        if not rows:
            continue
        names = list(rows[0][kind])
        clips = figures["clips"] if kind == "pixels" else figures["linear_clips"]
        cells = [("levels", "tokens", "PSNR dB", "codes used", *(name.replace("_", " ") for name in names))]
        for row in rows:
            known = row["levels"] if isinstance(row["levels"], str) else f"0 … {row['levels'] - 1}"
            used = f"{row['codes_used']:,} of {row['codes_possible']:,}" if "codes_used" in row else ""
            quality = f"{row['psnr']:.2f}" if "psnr" in row else ""
            cells.append((known, str(row.get("tokens", "")), quality, used, *(share_text(row[kind][name]) for name in names)))
        chance = [f"{100 * figures['chance'][name]:.0f} %" if name in figures["chance"] else "" for name in names]
        cells.append(("guessing", "", "", "", *chance))
        lines += [f"{title} ({clips} clips; 95 % intervals)", columns(cells), ""]
    return "\n".join(lines).rstrip()


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as text, right-aligned."""
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True)).rstrip() for row in rows)
