r"""Turn video shards into token shards, offline.

    python -m tokenize_shards yaml_configs/tokenize_shards/tiny.yaml \
        video_tokenizer.weights=runs/tiny-tokenizer/weights data.video_shards=shards/ data.out=tokens/
    sbatch --array=0-15 slurm/tokenize_shards.sh …            (each task begins with its own shards, then helps the others)
    python -m tokenize_shards --engine ray RUN.yaml …         (the same work, mapped over a Ray cluster)

A shard is done when its receipt is next to it. Running the same command again, after a kill or a lost task, does what is
missing and gives the same bytes. A shard that fails (a store that does not answer, a full disk) is tried again, then named,
and the exit code is 1. When the last receipt is there, manifest.json is written. Clips that cannot be used are
listed in the receipt and in rejects.jsonl; `--retry-rejects` does the shards that have some again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hitvideo.config import needed
from hitvideo.errors import ConfigError
from hitvideo.runs.ownership import write_fault
from hitvideo.runs.program import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, command_line, guarded
from hitvideo.settings.programs import TokenizeRun, load_settings_as
from hitvideo.settings.tokenize_shards import TaskSection


def main(arguments: list[str]) -> int:
    """Returns the exit code; raises ConfigError if the user can fix it."""
    settings = load_settings_as(TokenizeRun, *parse(arguments))
    pattern = needed(settings.data.video_shards, "data.video_shards")
    out = Path(needed(settings.data.out, "data.out"))
    index, count = which_task(settings.task)
    # After the settings are checked, because these imports take seconds.
    from hitvideo.data.video_shards import list_shards
    from tokenize_shards.contract import settle_contract
    from tokenize_shards.encoder import DeviceTokenizer
    from tokenize_shards.finish import finish
    from tokenize_shards.source import prepare_output
    from tokenize_shards.task import FailedShardsError, run_task, worker_count

    shards = list_shards(pattern)
    prepare_output(shards, out)
    device_tokenizer = DeviceTokenizer(settings)
    settle_contract(out, device_tokenizer)
    if settings.task.engine == "ray":
        from tokenize_shards.ray_engine import run_on_ray

        run_on_ray(shards, out, settings, worker_count(settings))
    else:
        try:
            if not run_task(shards, out, device_tokenizer, index, count):
                print("stopped on request; run the same command again to continue", file=sys.stderr)
                return EXIT_STOPPED
        except FailedShardsError as error:
            write_fault(error)
            print(f"error: {error}", file=sys.stderr)
            return EXIT_FAULT
    print(finish(out, shards, device_tokenizer), file=sys.stderr)
    return EXIT_DONE


def parse(arguments: list[str]) -> tuple[str, list[str]]:
    """RUN.yaml and overrides. The two options are short for keys of the task section."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--engine", choices=["tasks", "ray"])
    options.add_argument("--retry-rejects", action="store_true")
    given, others = options.parse_known_args(arguments)
    path, overrides = command_line("tokenize_shards", __doc__, others)
    engine = [f"task.engine={given.engine}"] if given.engine else []
    return path, [*overrides, *engine, *(["task.retry_rejects=true"] if given.retry_rejects else [])]


def which_task(task: TaskSection) -> tuple[int, int]:
    """This process's index and the number of tasks: from the settings, else from Slurm's array, else 0 of 1."""
    if (task.index is None) != (task.count is None):
        raise ConfigError("task.index and task.count belong together; give both or neither")
    if task.index is not None and task.count is not None:
        index, count = task.index, task.count
    else:  # --array=3,7,12 or 0-30:2 are fine: tasks that begin with the same shards help each other
        first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
        count = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1"))
        index = (int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")) - first) % max(1, count)
    if not 0 <= index < count:
        raise ConfigError(f"task {index} of {count}: the index runs from 0 to {count - 1}")
    return index, count


if __name__ == "__main__":
    guarded(main)
