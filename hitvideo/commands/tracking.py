"""hitvideo track sync: bring MLflow up to what the run directories hold."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError


def sync(words: argparse.Namespace) -> int:
    """Make MLflow's history of each run equal to its directory's. Returns 0, or 1 if a store did not answer."""
    from hitvideo.runs.directory import RunDirectory
    from hitvideo.settings.run import TrackingSection
    from hitvideo.tracking.feed import Feed
    from hitvideo.tracking.store import Store, reason
    from hitvideo.tracking.tracker import tracking_uri
    from hitvideo.tracking.view import read_settings

    stores: dict[tuple[str, str], Any] = {}
    code = 0
    for path in words.run:
        run = RunDirectory(path)
        if not run.config.is_file() and not run.metrics_file.is_file():
            raise ConfigError(f"{path}: not a run directory: it has neither config.yaml nor metrics.jsonl; give runs/NAME")
        section = read_settings(run.config).get("tracking")
        section = section if isinstance(section, dict) else {}
        uri = words.uri or tracking_uri(TrackingSection(uri=section.get("uri")), Path(path).absolute().parent)
        if "***" in uri:
            raise ConfigError(f"{path}: the run's tracking.uri held a password, which is not kept; give the store with --uri")
        experiment = words.experiment or str(section.get("experiment") or TrackingSection().experiment)
        try:
            if (uri, experiment) not in stores:
                stores[uri, experiment] = Store(uri, experiment, restore=True)
            done = Feed(Path(path), uri, experiment).sync(stores[uri, experiment])
        except ConfigError:
            raise
        except Exception as error:
            print(f"error: {path}: {reason(uri, error)}", file=sys.stderr)
            code = 1
            continue
        print(json.dumps({"run": str(path), "mlflow_run": done.run_id, "sent": done.sent, "undone": done.undone}))
    return code
