"""One task of the job: its own shards first, then those that other tasks leave undone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from hitvideo import config
from hitvideo.data.remote import Shard, byte_size
from hitvideo.data.token_format import read_receipt
from hitvideo.files import replace_file
from hitvideo.runs import history
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.facts import facts_of_this_start
from hitvideo.runs.program import Stop
from hitvideo.runs.secrets import masked_settings
from hitvideo.settings.programs import TokenizeRun
from hitvideo.tracking.tracker import Tracker
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.job import Pipeline
from tokenize_shards.leases import Failures, Leases, claims, deal_shards, done
from tokenize_shards.meter import TaskMeter
from tokenize_shards.source import refuse_changed
from tokenize_shards.trial import try_decoding

_MOST_FAILURES_IN_A_ROW = 8  # then it is not the shards
_MOST_LISTED = 20


def worker_count(settings: TokenizeRun) -> int:
    """How many decoding processes a task starts."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores - 1) if settings.data.workers is None else settings.data.workers


def run_task(shards: Sequence[Shard], out: Path, device_tokenizer: DeviceTokenizer, index: int, count: int) -> bool:
    """Do this task's shards, and those that other tasks leave undone; False if it was asked to stop.

    Raises ConfigError if this machine cannot decode or a shard has changed since it was tokenized, TooManyRejectsError, and
    FailedShardsError at the end if shards failed.
    """
    settings, data = device_tokenizer.settings, device_tokenizer.settings.data
    sizes = [byte_size(shard) for shard in shards]
    shares = deal_shards(shards, sizes, count)
    mine, others = shares[index], [shard for k in range(1, count) for shard in reversed(shares[(index + k) % count])]
    retry = settings.task.retry_rejects
    refuse_changed(mine, out, retry)
    run = RunDirectory(settings.run.directory)
    run.path.mkdir(parents=True, exist_ok=True)
    run.stop.unlink(missing_ok=True)
    stop = Stop(run.stop)
    stream = f"metrics-{index:05d}.jsonl" if count > 1 else history.METRICS
    attempt = record_start(run, settings)
    failures = Failures(settings.task.attempts, settings.task.retry_seconds)
    with (
        Tracker(settings.tracking, run.path, stream=stream, attempt=attempt) as tracker,
        DecodingPool(worker_count(settings), data.decode_seconds, data.decode_gib, data.read_seconds) as pool,
        Leases(out, settings.task.lease_seconds) as leases,
    ):
        try_decoding(pool, device_tokenizer.recipe)
        pipeline = Pipeline(device_tokenizer, pool, out, replace=retry)
        again = with_rejects(mine, out, leases)
        todo = again if retry else claims(mine, others, out, leases, lambda: stop.requested, failures)
        known = dict(zip((shard.stem for shard in shards), sizes, strict=True))
        total = sum(known[shard.stem] for shard in mine if retry or not done(out, shard.stem))
        meter = TaskMeter(pipeline.stages, pool, run.path / stream, attempt)
        with tqdm(desc=f"task {index} of {count}", total=total, unit="B", unit_scale=True, mininterval=_interval()) as bar:
            for shard, failure in pipeline(todo, bar.update):
                leases.release(shard.stem)
                failures.note(shard, failure)
                bar.set_postfix_str(meter.words())
                if failures.in_a_row == _MOST_FAILURES_IN_A_ROW:
                    break
                meter.log_if_due()
                tracker.wake()
        meter.log()
        failed = {shard: error for shard, error in failures.last.items() if not done(out, shard.stem)}
        tracker.finish("KILLED" if stop.requested else "FAILED" if failed else "FINISHED")
    if pipeline.stages.clips:
        print(f"task {index} of {count}: {meter.summary()}", file=sys.stderr)
    if failed and not stop.requested:
        raise FailedShardsError(failed)
    return not stop.requested


def record_start(run: RunDirectory, settings: TokenizeRun) -> int:
    """Keep the settings, and note a start of the job or of one of its tasks; returns the number of the start."""
    replace_file(run.config, config.to_yaml(masked_settings(settings)))
    attempt = history.next_attempt(run.path)
    history.append(run.events, {"event": "start", **history.stamped(facts_of_this_start(), attempt)})
    return attempt


class FailedShardsError(Exception):
    """Shards that got no receipt, each with its last error."""

    def __init__(self, failed: Mapping[Shard, Exception]) -> None:
        listed = "".join(f"\n  {shard}: {error}" for shard, error in list(failed.items())[:_MOST_LISTED])
        more = f"\n  and {len(failed) - _MOST_LISTED} more" if len(failed) > _MOST_LISTED else ""
        super().__init__(f"{len(failed)} shards failed; run the same command again to do them:{listed}{more}")


def with_rejects(mine: Sequence[Shard], out: Path, leases: Leases) -> Iterator[Shard]:
    """Shards of this task whose receipts name rejects and that no other task does, each leased."""
    for shard in mine:
        receipt = read_receipt(out, shard.stem)
        if receipt and receipt["rejected"] and leases.take(shard.stem):
            yield shard


def _interval() -> float:
    return 0.5 if sys.stderr.isatty() else 30.0
