"""Commands that compute before anything starts."""

from __future__ import annotations

import argparse
import json
from typing import Any

from hitvideo import config
from hitvideo.errors import ConfigError


def show_config(words: argparse.Namespace) -> None:
    from hitvideo.settings import explain
    from hitvideo.settings.programs import load_settings

    if words.find:
        _find(words.find)
        return
    if words.file is None:
        raise ConfigError("give RUN.yaml, or --find WORD")
    settings = load_settings(words.file, words.override)
    if words.explain:
        print(explain.explain(settings, explain.sources(words.file, words.override)), end="")
        return
    derived = _derived(settings)  # before anything is printed: it refuses what does not divide
    print(config.to_yaml(settings), end="")
    print("# derived")
    for key, value in derived.items():
        print(f"#   {key}: {value}")


def _find(word: str) -> None:
    from hitvideo.settings import explain

    for command, keys in explain.find(word).items():
        if keys:
            print(f"python -m {command}")
        for key in keys:
            print(f"  {key.dotted}  (default {key.default})\n      {key.doc}")


def _derived(settings: Any) -> dict[str, Any]:
    from hitvideo.settings import programs

    if isinstance(settings, programs.TokenizeRun):
        return {"clip and hierarchy": "those of video_tokenizer.weights"}
    extent = settings.clip.extent
    figures: dict[str, Any] = {
        "grids": [tuple(grid) for grid in settings.hierarchy.grids(extent)],
        "tokens per clip": settings.hierarchy.tokens(extent),
        "bits per pixel": round(settings.hierarchy.bits_per_pixel, 6),
        "compression": round(settings.hierarchy.compression, 1),
    }
    if isinstance(settings, programs.PretrainRun):
        from hitvideo.planning.flops import meta_model

        model, cluster, parallel = meta_model(settings), settings.cluster, settings.parallel
        ranks = max(cluster.nodes * cluster.devices_per_node // (parallel.tensor * parallel.context), 1)
        figures |= {"sequence length": model.layout.length, "parameters": sum(p.numel() for p in model.parameters())}
        figures |= {"gradient accumulation": f"{settings.train.accumulation(ranks)} on {ranks} data-parallel ranks"}
    return figures


def show_plan(words: argparse.Namespace) -> None:
    from dataclasses import asdict

    from hitvideo.planning.language_model import plan_language_model
    from hitvideo.planning.video_tokenizer import plan_video_tokenizer
    from hitvideo.settings import programs

    settings = programs.load_settings(words.file, words.override)
    if isinstance(settings, programs.TokenizeRun):
        raise ConfigError(f"{words.file}: there is nothing to plan for tokenize_shards; give a run that trains")
    plan = plan_language_model(settings) if isinstance(settings, programs.PretrainRun) else plan_video_tokenizer(settings)
    figures = asdict(plan)
    if words.json:
        print(json.dumps(figures))
        return
    phases, caution = figures.pop("phases", ()), figures.pop("caution", "")
    for key, value in figures.items():
        print(f"{key:26} {value:,.3f}" if isinstance(value, float) else f"{key:26} {value:{',' * isinstance(value, int)}}")
    for phase in phases:
        print(f"  phase {phase['name']:18} {phase['total_gib']:,.3f} GiB, of which activations {phase['activations_gib']:,.3f}")
    if caution:
        print(f"caution: {caution}")
    fits = figures["total_gib"] <= figures["available_gib"]
    print("fits" if fits else "does NOT fit: use more devices, a larger parallel.tensor or activation_checkpointing=block")


def slurm(words: argparse.Namespace) -> None:
    from hitvideo.cluster import script as jobs

    extra = jobs.cluster_words(words.cluster) if words.cluster else []
    text = jobs.script(words.file, [*extra, *words.override], words.nodes)
    print(f"submitted job {jobs.submit(text)}" if words.submit else text, end="\n" if words.submit else "")
