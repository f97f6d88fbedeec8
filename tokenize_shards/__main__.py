r"""Turn video shards into token shards, offline.

    python -m tokenize_shards yaml_configs/tokenize_shards/tiny.yaml \
        video_tokenizer.weights=runs/tiny-tokenizer/weights data.video_shards=shards/ data.out=tokens/
    sbatch --array=0-15 slurm/tokenize_shards.sh …            (each task begins with its own shards, then helps the others)
    python -m tokenize_shards --engine ray RUN.yaml …         (the same work, mapped over a Ray cluster)

Done is a receipt beside each token shard. Running the same command again, after a kill or a lost task, does what is
missing and gives the same bytes; when the last receipt is there, manifest.json is written. Corrupt clips are rejected by
name in the receipt and in rejects.jsonl; `--retry-rejects` does the shards that have some again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from hitvideo.config import needed
from hitvideo.data.remote import Shard, byte_size
from hitvideo.data.token_format import read_receipt
from hitvideo.data.video_shards import list_shards
from hitvideo.errors import ConfigError
from hitvideo.files import locked
from hitvideo.runs.program import EXIT_DONE, EXIT_STOPPED, Stop, command_line, guarded
from hitvideo.runs.tracking import Tracker
from hitvideo.settings.programs import TokenizeRun, load_settings_as
from hitvideo.settings.tokenize_shards import TaskSection
from tokenize_shards.contract import settle_contract
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.finish import finish
from tokenize_shards.job import Pipeline
from tokenize_shards.leases import Leases, claims, deal_shards
from tokenize_shards.meter import TaskMeter

_TRACKING_SECONDS = 20.0


def main(arguments: list[str]) -> int:
    """Returns the exit code; raises ConfigError for what the user can mend."""
    settings = load_settings_as(TokenizeRun, *words_of(arguments))
    shards = list_shards(needed(settings.data.video_shards, "data.video_shards"))
    out = Path(needed(settings.data.out, "data.out"))
    index, count = which_task(settings.task)
    device_tokenizer = DeviceTokenizer(settings)
    settle_contract(out, device_tokenizer)
    if settings.task.engine == "ray":
        from tokenize_shards.ray_engine import run_on_ray

        run_on_ray(shards, out, settings, workers_of(settings))
    elif not run_task(shards, out, device_tokenizer, index, count):
        print("stopped on request; the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED
    print(finish(out, shards, device_tokenizer, settings.task.lease_seconds), file=sys.stderr)
    return EXIT_DONE


def words_of(arguments: list[str]) -> tuple[str, list[str]]:
    """RUN.yaml and overrides; the two options are short for keys of the task section."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--engine", choices=["tasks", "ray"])
    options.add_argument("--retry-rejects", action="store_true")
    given, others = options.parse_known_args(arguments)
    path, overrides = command_line("tokenize_shards", __doc__, others)
    engine = [f"task.engine={given.engine}"] if given.engine else []
    return path, [*overrides, *engine, *(["task.retry_rejects=true"] if given.retry_rejects else [])]


def which_task(task: TaskSection) -> tuple[int, int]:
    """This process's index and the number of tasks: from the config, else from Slurm's array, else the only one."""
    if (task.index is None) != (task.count is None):
        raise ConfigError("task.index and task.count belong together; give both or neither")
    if task.index is not None and task.count is not None:
        index, count = task.index, task.count
    else:
        first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
        index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")) - first
        count = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
    if not 0 <= index < count:
        raise ConfigError(f"task {index} of {count}: the index runs from 0 to {count - 1}")
    return index, count


def workers_of(settings: TokenizeRun) -> int:
    """Decoding processes of a task."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores - 1) if settings.data.workers is None else settings.data.workers


def run_task(shards: Sequence[Shard], out: Path, device_tokenizer: DeviceTokenizer, index: int, count: int) -> bool:
    """Do this task's shards, and those that other tasks leave undone; False where it was asked to stop."""
    settings, data = device_tokenizer.settings, device_tokenizer.settings.data
    sizes = [byte_size(shard) for shard in shards]
    shares = deal_shards(shards, sizes, count)
    mine, others = shares[index], [shard for k in range(1, count) for shard in reversed(shares[(index + k) % count])]
    retry = settings.task.retry_rejects
    run = settings.run.directory
    run.mkdir(parents=True, exist_ok=True)
    (run / "STOP").unlink(missing_ok=True)
    stop = Stop(run / "STOP")
    with (
        tracked(settings) as tracker,
        DecodingPool(workers_of(settings), data.decode_seconds, data.decode_gib) as pool,
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
    """All tasks of a dataset log to one MLflow run: the first to come creates it, the others find its id."""
    run = settings.run.directory
    with locked(run / ".tracking"):
        tracker = Tracker(settings.tracking, run, settings)
        deadline = time.monotonic() + _TRACKING_SECONDS  # a server that does not answer holds nobody up for longer
        while settings.tracking.enabled and not (run / "mlflow_run_id").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
    return tracker


def _interval() -> float:
    return 0.5 if sys.stderr.isatty() else 30.0


if __name__ == "__main__":
    guarded(main)
