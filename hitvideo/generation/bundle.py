"""A run in the files that generation needs, and no others: to hand on, or to ship.

    OUT/config.yaml            the run's settings, without paths of the machine that trained it
    OUT/weights/               the language model
    OUT/text_tokenizer.model
    OUT/video_tokenizer/       as the run used it: its fingerprint is that of the tokens
    OUT/video_tokenizer.json
    OUT/evaluation/            the run's figures, if it has any
    OUT/README.md              a model card
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hitvideo.config import build, to_yaml
from hitvideo.errors import ConfigError
from hitvideo.files import process_name, replace_json
from hitvideo.generation.generator import find_video_tokenizer
from hitvideo.runs.directory import RunDirectory
from hitvideo.settings.programs import PretrainRun
from hitvideo.video_tokenizer.weights import keep_weights, weights_fingerprint


def write_bundle(run: Path, out: Path, dtype: torch.dtype = torch.float32) -> int:
    """Write the folder `out`, whole or not at all, and return its size in bytes.

    Raises ConfigError if `out` exists, or if the run lacks a file that generation needs.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; give the name of a new folder")
    directory = RunDirectory.open(run)
    settings = directory.settings_as(PretrainRun)
    video_tokenizer = find_video_tokenizer(directory, settings, None)
    made = RunDirectory(out.with_name(f".{out.name}.{process_name()}"))
    try:
        made.weights.mkdir(parents=True)
        weights = directory.model_weights()
        parameters = sum(tensor.numel() for tensor in weights.values())
        small = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
        save_file(small, made.model_file, metadata={"format": "pt"})
        made.config.write_text(to_yaml(_without_paths(settings)), encoding="utf-8")
        made.text_tokenizer_file.write_bytes(directory.text_tokenizer().model)
        if not keep_weights(video_tokenizer, made.video_tokenizer_copy):
            raise ConfigError(f"{video_tokenizer}: larger than 2 GiB; hand it on by itself")
        replace_json(made.video_tokenizer_file, {"fingerprint": weights_fingerprint(video_tokenizer), "weights": None})
        if directory.evaluation.is_dir():
            shutil.copytree(directory.evaluation, made.evaluation)
        card = model_card(settings, parameters, directory.figures())
        (made.path / "README.md").write_text(card, encoding="utf-8")
        size = sum(file.stat().st_size for file in made.path.rglob("*") if file.is_file())
        os.rename(made.path, out)
    finally:
        shutil.rmtree(made.path, ignore_errors=True)
    return size


def _without_paths(settings: PretrainRun) -> PretrainRun:
    """The settings with the names of folders and servers left out; nothing of them is needed to generate."""
    content = settings.model_dump(mode="json")
    content["data"] |= {"manifest": "manifest.json", "blend": []}
    content["run"] |= {"root": "runs"}
    content["video_tokenizer"] |= {"weights": None}
    content["text"] |= {"model": None}
    content["train"] |= {"start_from": None}
    content["tracking"], content["cluster"]["slurm"] = {}, {}
    return build(PretrainRun, content, str(settings.run.directory))


def model_card(settings: PretrainRun, parameters: int, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Plain Markdown: what the model is, how it was judged, how to draw with it, and what it is not for."""
    clip, levels = settings.clip, settings.hierarchy.levels
    grids = settings.hierarchy.grids(clip.extent)
    tokens = [grid.cells for grid in grids]
    lines = [
        *("---", "library_name: hitvideo", "pipeline_tag: text-to-video", "---", ""),  # what model hubs file it under
        f"# {settings.run.name}",
        "",
        f"A text-to-video language model of {parameters / 1e6:.2f} M parameters, trained by HiTVideo (arXiv 2503.11513).",
        f"Videos: {clip.frames} frames of {clip.height}×{clip.width} at {clip.fps:g} frames a second, {sum(tokens)} tokens.",
        "",
        "| level | cell (frames, height, width) | bits | tokens |",
        "|---|---|---|---|",
        *(
            f"| {number} | {', '.join(map(str, level.down))} | {level.num_bits} | {count} |"
            for number, (level, count) in enumerate(zip(levels, tokens, strict=True))
        ),
        "",
        "    hitvideo generate --run FOLDER --prompt \"…\" --out video.mp4",
        "",
        f"Trained for {settings.train.steps} steps of {settings.train.global_batch} videos. It draws what its training data",
        "shows, and knows words of its captions alone.",
    ]
    captions = figures.get("captions")
    if captions:
        rows = [
            f"| {name} | {100 * rate:.0f} % ({100 * low:.0f} to {100 * high:.0f}) |"
            for name, rate in {**captions["caption_accuracy"], "all_right": captions["all_right"]}.items()
            for low, high in [captions["intervals"][name]]
        ]
        lines += ["", f"What {captions['videos']} generated videos show, read by a program (95 % intervals):", ""]
        lines += ["| | right |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"
