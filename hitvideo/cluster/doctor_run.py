"""The doctor's checks of one run before it starts: place, space, memory, data, tokenizer, tracking."""

from __future__ import annotations

import os
import shutil
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from hitvideo.cluster.checks import check_folder
from hitvideo.cluster.doctor import Check, Finding
from hitvideo.errors import ConfigError
from hitvideo.runs.secrets import masked, without_secrets_of
from hitvideo.runs.tracking import tracking_uri
from hitvideo.settings.programs import PretrainRun, TokenizeRun, VideoTokenizerRun, check_layout

_SQLITE = "sqlite:///"
_PATIENCE_SECONDS = 5.0


def run_checks(settings: VideoTokenizerRun | TokenizeRun | PretrainRun) -> dict[str, Check]:
    """Name → check, of those that this run needs."""
    checks: dict[str, Check] = {"run root": lambda: _run_root(settings), "tracking": lambda: _tracking(settings)}
    if isinstance(settings, TokenizeRun):
        return checks
    training = settings
    checks |= {"layout": lambda: _layout(training), "memory": lambda: _memory(training), "space": lambda: _space(training)}
    checks["data"] = lambda: _data(training)
    if isinstance(settings, PretrainRun):
        language_model = settings
        checks["tokenizer"] = lambda: _tokenizer(language_model)
    return checks


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def _run_root(settings: Any) -> Finding:
    folder = _existing(Path(settings.run.root))
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
    folder = _existing(Path(settings.run.root))
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


def _tracking(settings: Any) -> Finding:
    if not settings.tracking.enabled or settings.tracking.uri is None:
        return Finding("tracking", "skip", "tracking.enabled is false, or tracking.uri is null")
    uri = tracking_uri(settings.tracking, Path(settings.run.root))
    if uri.startswith(_SQLITE):
        return _sqlite(uri, getattr(getattr(settings, "cluster", None), "nodes", 1))
    if not uri.startswith(("http://", "https://")):
        return Finding("tracking", "skip", f"{masked(uri)}: only sqlite and http are checked")
    return _server(uri)


def _sqlite(uri: str, nodes: int) -> Finding:
    path = Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0]))
    try:
        check_folder(_existing(path.parent))
        if path.exists():
            with sqlite3.connect(path, timeout=_PATIENCE_SECONDS) as store:
                store.execute("BEGIN IMMEDIATE")
                store.rollback()
    except (OSError, sqlite3.Error) as error:
        return Finding("tracking", "fail", f"{path}: cannot be written: {error}", "set tracking.uri to a place you may write")
    if nodes > 1:
        found = f"{path} is a sqlite file, and the run has {nodes} nodes: its locks do not hold on a shared file system"
        fix = "mlflow server --backend-store-uri sqlite:///FILE; then tracking.uri=http://HOST:5000"
        return Finding("tracking", "warn", found, fix)
    return Finding("tracking", "ok", str(path))


def _server(uri: str) -> Finding:
    """Whether an MLflow server answers; nothing is written to it."""
    parts = urlsplit(uri)
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + "/health", "", ""))
    shown = masked(uri)
    try:
        with urllib.request.urlopen(plain, timeout=_PATIENCE_SECONDS) as answer:
            if answer.status != 200:
                raise ConfigError(f"answers {answer.status}")
    except urllib.error.HTTPError as error:
        if error.code == 403:
            fix = f"start the server with --allowed-hosts {parts.hostname}"
            return Finding("tracking", "fail", f"{shown} refuses (403): it does not know its own host name", fix)
        if error.code != 401:
            found = f"{shown} answers {error.code} at /health"
            return Finding("tracking", "warn", found, "set tracking.uri to an MLflow server")
        if not (parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME") or os.environ.get("MLFLOW_TRACKING_TOKEN")):
            fix = "export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=…"
            return Finding("tracking", "fail", f"{shown} wants a login", fix)
    except (OSError, ConfigError, ValueError) as error:
        fix = "start the server, correct tracking.uri, or tracking.enabled=false"
        return Finding("tracking", "fail", f"{shown} cannot be reached: {without_secrets_of(uri, error)}", fix)
    return Finding("tracking", "ok", shown)
