"""Commands that compute before anything starts."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hitvideo.errors import ConfigError

if TYPE_CHECKING:
    from hitvideo.settings.programs import PretrainRun


def show_config(words: argparse.Namespace) -> None:
    from hitvideo import config
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


def add_plan_options(p: argparse.ArgumentParser) -> None:
    """The options of `hitvideo plan` that predict speed and cost."""
    ways = p.add_mutually_exclusive_group()
    ways.add_argument("--simulate", action="store_true", help="predict a step's time by part, MFU with a range, days and cost")
    ways.add_argument("--search", action="store_true", help="find the fastest setting that fits, for each number of devices")
    p.add_argument("--deadline", type=_positive, metavar="DAYS", help="of --search: name the cheapest that ends in time")
    p.add_argument("--price", type=_positive, metavar="USD", help="of a device's hour; default: cluster.usd_per_device_hour")


def _positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{text} is not a number above 0")


def show_plan(words: argparse.Namespace) -> None:
    from dataclasses import asdict

    from hitvideo.planning.language_model import plan_language_model
    from hitvideo.planning.video_tokenizer import plan_video_tokenizer
    from hitvideo.settings import programs

    settings = programs.load_settings(words.file, words.override)
    if isinstance(settings, programs.TokenizeRun):
        raise ConfigError(f"{words.file}: there is nothing to plan for tokenize_shards; give a run that trains")
    if words.deadline is not None and not words.search:
        raise ConfigError("--deadline is for --search; give both")
    if words.price is not None:
        cluster = settings.cluster.model_copy(update={"usd_per_device_hour": words.price})
        settings = settings.model_copy(update={"cluster": cluster})
    if words.simulate or words.search:
        if not isinstance(settings, programs.PretrainRun):
            raise ConfigError(f"{words.file}: --simulate and --search know language models' runs only (program: pretrain)")
        _predict(settings, words)
        return
    plan = plan_language_model(settings) if isinstance(settings, programs.PretrainRun) else plan_video_tokenizer(settings)
    figures = asdict(plan)
    if words.json:
        print(json.dumps(figures))
        return
    phases, caution = figures.pop("phases", ()), figures.pop("caution", "")
    for key, value in figures.items():
        if value is None:
            continue
        print(f"{key:26} {value:,.3f}" if isinstance(value, float) else f"{key:26} {value:{',' * isinstance(value, int)}}")
    for phase in phases:
        print(f"  phase {phase['name']:18} {phase['total_gib']:,.3f} GiB, of which activations {phase['activations_gib']:,.3f}")
    if caution:
        print(f"caution: {caution}")
    fits = figures["total_gib"] <= figures["available_gib"]
    print("fits" if fits else "does NOT fit: use more devices, a larger parallel.tensor or activation_checkpointing=block")


def _predict(settings: PretrainRun, words: argparse.Namespace) -> None:
    from hitvideo.planning.language_model import plan_language_model
    from hitvideo.planning.simulation import tables
    from hitvideo.planning.simulation.prediction import predict
    from hitvideo.planning.simulation.search import search

    if words.search:
        found = search(settings)
        print(json.dumps(found.figures(words.deadline)) if words.json else tables.found_text(found, words.deadline))
    else:
        step, plan = predict(settings), plan_language_model(settings)
        memory = {"total_gib": plan.total_gib, "available_gib": plan.available_gib}
        print(json.dumps(step.figures() | memory) if words.json else tables.prediction_text(step))
        if not words.json:
            print(f"memory                       {plan.total_gib:,.1f} of {plan.available_gib:,.1f} GiB")


def slurm(words: argparse.Namespace) -> None:
    from hitvideo.cluster import script as jobs

    extra = jobs.cluster_words(words.cluster) if words.cluster else []
    text = jobs.script(words.file, [*extra, *words.override], words.nodes)
    print(f"submitted job {jobs.submit(text)}" if words.submit else text, end="\n" if words.submit else "")
