"""The doctor's checks of one run before it starts: place, space, memory, data, tokenizer, tracking, and ranks together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hitvideo.cluster.checks import check_folder
from hitvideo.cluster.doctor import Check, Finding
from hitvideo.cluster.doctor_tracking import check_tracking, existing
from hitvideo.settings.programs import PretrainRun, TokenizeRun, VideoTokenizerRun, check_layout

COLLECTIVES = "collectives"
"""The check in which every rank takes part."""


def run_checks(settings: VideoTokenizerRun | TokenizeRun | PretrainRun) -> dict[str, Check]:
    """Name → check, of those that this run needs."""
    checks: dict[str, Check] = {"run root": lambda: _run_root(settings), "tracking": lambda: check_tracking(settings)}
    if isinstance(settings, TokenizeRun):
        return checks
    training = settings
    checks |= {"layout": lambda: _layout(training), "memory": lambda: _memory(training), "space": lambda: _space(training)}
    checks["data"] = lambda: _data(training)
    if isinstance(settings, PretrainRun):
        language_model = settings
        checks["tokenizer"] = lambda: _tokenizer(language_model)
    checks[COLLECTIVES] = lambda: _collectives(training)
    return checks


def _run_root(settings: Any) -> Finding:
    folder = existing(Path(settings.run.root))
    try:
        check_folder(folder)
    except OSError as error:
        fix = f"choose another run.root, or: chmod u+w {folder}"
        return Finding("run root", "fail", f"{folder}: cannot be written: {error.strerror or error}", fix)
    return Finding("run root", "ok", str(folder))


def _layout(settings: VideoTokenizerRun | PretrainRun) -> Finding:
    check_layout(settings)
    return Finding("layout", "ok", f"{settings.cluster.nodes} nodes × {settings.cluster.devices_per_node} devices")


def _plan(settings: VideoTokenizerRun | PretrainRun) -> Any:
    from hitvideo.planning.language_model import plan_language_model
    from hitvideo.planning.video_tokenizer import plan_video_tokenizer

    return plan_language_model(settings) if isinstance(settings, PretrainRun) else plan_video_tokenizer(settings)


def _memory(settings: VideoTokenizerRun | PretrainRun) -> Finding:
    plan = _plan(settings)
    found = f"{plan.total_gib:.2f} GiB a device, cluster.memory_gib {plan.available_gib:g}"
    if plan.total_gib <= plan.available_gib:
        return Finding("memory", "ok", found)
    return Finding("memory", "fail", found, "more devices, a larger parallel.tensor or parallel.activation_checkpointing=block")


def _space(settings: VideoTokenizerRun | PretrainRun) -> Finding:
    """As hitvideo/parallel/save.py: fp32 weights, moments and average, keep_last times and once while one is written."""
    from hitvideo.planning.flops import meta_model

    if isinstance(settings, PretrainRun):
        parameters = sum(p.numel() for p in meta_model(settings).parameters())
    else:
        parameters = _plan(settings).parameters
    size = 4 * parameters * (4 if settings.train.ema else 3) / (1 << 30)
    needed = (settings.checkpoint.keep_last + 1) * size
    folder = existing(Path(settings.run.root))
    free = shutil.disk_usage(folder).free / (1 << 30)
    found = f"{free:,.2f} GiB are free in {folder}, checkpoints need {needed:,.2f}"
    if free < needed:
        return Finding("space", "fail", found, "free some space, choose another run.root, or lower checkpoint.keep_last")
    return Finding("space", "ok", found)


def _data(settings: VideoTokenizerRun | PretrainRun) -> Finding:
    """Shards are there; of token shards each file of the manifest, and some are held against their receipts."""
    if isinstance(settings, VideoTokenizerRun):
        from hitvideo.config import needed
        from hitvideo.data.video_shards import list_shards

        shards = list_shards(needed(settings.data.video_shards, "data.video_shards"))
        return Finding("data", "ok", f"{len(shards)} video shards")
    from hitvideo.data.spot_check import spot_check

    if settings.data.blend:
        return Finding("data", "skip", "a blend: hitvideo data verify checks its manifests one by one")
    dataset = _tokens(settings)
    checked, number = spot_check([dataset], settings.run.seed)
    return Finding("data", "ok", f"{len(dataset)} samples; {checked} of {number} shards are as their receipts say")


def _tokens(settings: PretrainRun) -> Any:
    from hitvideo.config import needed
    from hitvideo.data.token_shards import TokenDataset

    return TokenDataset(needed(settings.data.manifest, "data.manifest"), settings.clip)


def _tokenizer(settings: PretrainRun) -> Finding:
    from hitvideo.video_tokenizer.weights import weights_fingerprint

    if settings.data.blend or not settings.video_tokenizer.weights:
        return Finding("tokenizer", "skip", "video_tokenizer.weights is not set, or the data are a blend")
    ours = weights_fingerprint(Path(settings.video_tokenizer.weights))
    theirs = _tokens(settings).manifest["video_tokenizer"]["fingerprint"]
    if ours == theirs:
        return Finding("tokenizer", "ok", ours)
    found = f"{settings.video_tokenizer.weights} is {ours}, the token shards were made with {theirs}"
    return Finding("tokenizer", "fail", found, "set video_tokenizer.weights to that tokenizer, or tokenize again with this one")


def _collectives(settings: VideoTokenizerRun | PretrainRun) -> Finding:
    """As one process there is nothing to time, and nothing heavy is imported."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Finding(
            COLLECTIVES, "skip", "one process; torchrun --nproc-per-node N --no-python -- hitvideo doctor --run RUN.yaml"
        )
    from hitvideo.cluster.doctor_ranks import check_collectives

    return check_collectives(settings, COLLECTIVES)
