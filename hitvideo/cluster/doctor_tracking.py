"""The doctor's check of a run's tracking store: can it be reached and written? mlflow is not imported, which takes long.

A sqlite file is locked for writing and let go. On a server a tag of the run's experiment is set and taken away again; the
experiment is made if it is missing, as the run's start would do, and then the finding says so.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from hitvideo.cluster.checks import check_folder
from hitvideo.cluster.doctor import Finding
from hitvideo.runs.secrets import masked, without_secrets_of
from hitvideo.tracking.tracker import tracking_uri

_SQLITE = "sqlite:///"
_PATIENCE_SECONDS = 5.0
_TAG = "hitvideo.doctor"
_EXPERIMENTS = "/api/2.0/mlflow/experiments/"
_UNREACHABLE = "start the server, correct tracking.uri, or tracking.enabled=false"


def check_tracking(settings: Any) -> Finding:
    """`settings`: of any program's run."""
    section = settings.tracking
    if not section.enabled or section.uri is None:
        return Finding("tracking", "skip", "tracking.enabled is false, or tracking.uri is null")
    uri = tracking_uri(section, Path(settings.run.root))
    if uri.startswith(_SQLITE):
        return _sqlite(uri, getattr(getattr(settings, "cluster", None), "nodes", 1))
    if not uri.startswith(("http://", "https://")):
        return Finding("tracking", "skip", f"{masked(uri)}: only sqlite and http are checked")
    try:
        return Finding("tracking", "ok", f"{masked(uri)}{_Server(uri).write(section.experiment)}")
    except urllib.error.HTTPError as error:
        return _refused(uri, error)
    except (OSError, ValueError, KeyError) as error:
        return Finding("tracking", "fail", f"{masked(uri)} cannot be reached: {without_secrets_of(uri, error)}", _UNREACHABLE)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def _sqlite(uri: str, nodes: int) -> Finding:
    path = Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0]))
    try:
        check_folder(existing(path.parent))
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


class _Server:
    """Asks an MLflow server. Raises HTTPError for a refusal, OSError and ValueError if it is none or does not answer."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        name = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
        word = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
        bearer = os.environ.get("MLFLOW_TRACKING_TOKEN")
        login = f"Basic {base64.b64encode(f'{name}:{word}'.encode()).decode()}" if name else f"Bearer {bearer}"
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": login} if name or bearer else {})

    def write(self, experiment: str) -> str:
        """Set and remove a tag of the experiment; returns what stays behind, as words for the finding."""
        stays = ""
        try:
            found = self._ask(f"{_EXPERIMENTS}get-by-name?experiment_name={quote(experiment)}")["experiment"]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            found = {"experiment_id": self._ask(f"{_EXPERIMENTS}create", name=experiment)["experiment_id"]}
            stays = f"; its experiment '{experiment}' was made"
        if found.get("lifecycle_stage") == "deleted":
            return f"; its experiment '{experiment}' is deleted: hitvideo track sync restores it, or set tracking.experiment"
        tag = {"experiment_id": found["experiment_id"], "key": _TAG}
        self._ask(f"{_EXPERIMENTS}set-experiment-tag", **tag, value="can write")
        try:
            self._ask(f"{_EXPERIMENTS}delete-experiment-tag", **tag)
        except urllib.error.HTTPError:  # an older server has no such call
            stays += f"; the tag {_TAG} stays on its experiment"
        return stays

    def _ask(self, path: str, **content: str) -> dict[str, Any]:
        body = json.dumps(content).encode() if content else None
        request = urllib.request.Request(self._plain + path, body, self._headers)
        with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:
            found = json.load(answer)
        if not isinstance(found, dict):
            raise ValueError("not an MLflow server")
        return found


def _refused(uri: str, error: urllib.error.HTTPError) -> Finding:
    shown, told = masked(uri), error.read(2000).decode(errors="replace")
    if error.code == 403 and "Host header" in told:
        fix = f"start the server with --allowed-hosts {urlsplit(uri).netloc.rpartition('@')[2]}"
        return Finding("tracking", "fail", f"{shown} refuses (403): it does not know its own host name", fix)
    if error.code in (401, 403):
        fix = "export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=… of somebody who may write its experiment"
        return Finding("tracking", "fail", f"{shown} refuses ({error.code}): no login, or one that may not write", fix)
    return Finding(
        "tracking", "fail", f"{shown} answers {error.code}: it cannot be written, or is no MLflow server", _UNREACHABLE
    )
