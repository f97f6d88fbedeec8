"""One task of the job: its own shards first, then those that other tasks leave undone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from hitvideo.data.remote import Shard, byte_size
from hitvideo.data.token_format import read_receipt
from hitvideo.files import locked
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.program import Stop
from hitvideo.runs.tracking import Tracker
from hitvideo.settings.programs import TokenizeRun
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.job import Pipeline
from tokenize_shards.leases import Leases, claims, deal_shards
from tokenize_shards.meter import TaskMeter

_TRACKING_SECONDS = 20.0


def worker_count(settings: TokenizeRun) -> int:
    """How many decoding processes a task starts."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores - 1) if settings.data.workers is None else settings.data.workers


def run_task(shards: Sequence[Shard], out: Path, device_tokenizer: DeviceTokenizer, index: int, count: int) -> bool:
    """Do this task's shards, and those that other tasks leave undone; False if it was asked to stop."""
    settings, data = device_tokenizer.settings, device_tokenizer.settings.data
    sizes = [byte_size(shard) for shard in shards]
    shares = deal_shards(shards, sizes, count)
    mine, others = shares[index], [shard for k in range(1, count) for shard in reversed(shares[(index + k) % count])]
    retry = settings.task.retry_rejects
    run = RunDirectory(settings.run.directory)
    run.path.mkdir(parents=True, exist_ok=True)
    run.stop.unlink(missing_ok=True)
    stop = Stop(run.stop)
    with (
        tracked(settings) as tracker,
        DecodingPool(worker_count(settings), data.decode_seconds, data.decode_gib) as pool,
        Leases(out, settings.task.lease_seconds) as leases,
    ):
        pipeline = Pipeline(device_tokenizer, pool, out, replace=retry)
        todo = with_rejects(mine, out) if retry else claims(mine, others, out, leases, lambda: stop.requested)
        known = dict(zip((shard.stem for shard in shards), sizes, strict=True))
        total = sum(known[shard.stem] for shard in mine if retry or not read_receipt(out, shard.stem))
        meter = TaskMeter(pipeline.stages, pool, f"task_{index}")
        with tqdm(desc=f"task {index} of {count}", total=total, unit="B", unit_scale=True, mininterval=_interval()) as bar:
            for shard in pipeline(todo, bar.update):
                leases.release(shard.stem)
                bar.set_postfix_str(meter.words())
                if row := meter.row_if_due():
                    tracker.log(row, pipeline.stages.clips)
        tracker.log(meter.row(), pipeline.stages.clips)
        tracker.finish("KILLED" if stop.requested else "FINISHED")
    if pipeline.stages.clips:
        print(f"task {index} of {count}: {meter.summary()}", file=sys.stderr)
    return not stop.requested


def with_rejects(mine: Sequence[Shard], out: Path) -> Iterator[Shard]:
    """Shards of this task whose receipts name rejects."""
    return (shard for shard in mine if (receipt := read_receipt(out, shard.stem)) and receipt["rejected"])


def tracked(settings: TokenizeRun) -> Tracker:
    """The tracker of one MLflow run for all tasks of a dataset: the first task creates the run, the others find its id."""
    run = RunDirectory(settings.run.directory)
    with locked(run.path / ".tracking"):
        tracker = Tracker(settings.tracking, run.path, settings)
        deadline = time.monotonic() + _TRACKING_SECONDS  # no task waits longer for a server that does not answer
        while settings.tracking.enabled and not run.mlflow_run_id.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
    return tracker


def _interval() -> float:
    return 0.5 if sys.stderr.isatty() else 30.0
