r"""Turn video shards into token shards, offline.

    python -m tokenize_shards yaml_configs/tokenize_shards/tiny.yaml \
        video_tokenizer.weights=runs/tiny-tokenizer/weights data.video_shards=shards/ data.out=tokens/
    sbatch --array=0-15 slurm/tokenize_shards.sh …            (each task takes every 16th shard)

Done is a receipt beside each token shard. Running the same command again, after a kill or a lost task, does what is
missing and gives the same bytes; when the last receipt is there, manifest.json is written. Corrupt clips are rejected by
name in the receipt.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hitvideo.config import ConfigError, needed
from hitvideo.data.manifest import write_manifest
from hitvideo.data.token_format import locked, shard_paths
from hitvideo.data.video_shards import list_shards, scan
from hitvideo.run import EXIT_DONE, command_line, guarded
from hitvideo.schema import TokenizeRun, load_as
from hitvideo.sections import TaskSection
from hitvideo.tokenizer.video_tokenizer import fingerprint, load
from tokenize_shards.job import Encoder, remove_leftovers, tokenize_shard


def main(arguments: list[str]) -> int:
    """Returns the exit code; raises ConfigError for what the user can mend."""
    settings = load_as(TokenizeRun, *command_line("tokenize_shards", __doc__, arguments))
    shards = list_shards(needed(settings.data.video_shards, "data.video_shards"))
    out = Path(needed(settings.data.out, "data.out"))
    index, count = which_task(settings.task)
    encoder = make_encoder(settings)
    out.mkdir(parents=True, exist_ok=True)
    mine = [shard for number, shard in enumerate(shards) if number % count == index]
    missing = [shard for shard in mine if read_receipt(out, shard.stem, encoder.contract) is None]
    with tqdm(desc=f"task {index} of {count}", unit="clip", disable=not missing, mininterval=_interval()) as progress:
        progress.total = sum(len(scan(shard).samples) for shard in missing)
        for shard in missing:
            remove_leftovers(out, shard.stem)
            tokenize_shard(shard, out, encoder, progress.update)
    finish(out, shards, encoder)
    return EXIT_DONE


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


def make_encoder(settings: TokenizeRun) -> Encoder:
    """The trained tokenizer that the run names, on the GPU where there is one."""
    weights = Path(needed(settings.video_tokenizer.weights, "video_tokenizer.weights"))
    tokenizer, clip = load(weights, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return Encoder(tokenizer, clip, fingerprint(weights), settings)


def read_receipt(out: Path, stem: str, contract: str) -> dict[str, Any] | None:
    """A shard's receipt, or None. ConfigError for one that was made by another tokenizer or with other limits."""
    path = shard_paths(out, stem)[2]
    if not path.is_file():
        return None
    receipt: dict[str, Any] = json.loads(path.read_text())
    if receipt["contract"] != contract:
        raise ConfigError(
            f"{path} was made with another tokenizer, clip or limits (contract {receipt['contract']}, now {contract}); "
            f"name an empty data.out, or remove the old shards"
        )
    return receipt


def finish(out: Path, shards: list[Path], encoder: Encoder) -> None:
    """Write the manifest if every shard has its receipt; whichever task sees that first or again writes the same one."""
    receipts = [read_receipt(out, shard.stem, encoder.contract) for shard in shards]
    done = [receipt for receipt in receipts if receipt is not None]
    if len(done) < len(shards):
        print(f"{len(done)} of {len(shards)} shards done; the manifest is written when the last task ends", file=sys.stderr)
        return
    tokenizer = {
        "fingerprint": encoder.fingerprint,
        "weights": str(Path(needed(encoder.settings.video_tokenizer.weights, "video_tokenizer.weights")).resolve()),
    }
    description = {
        "grids": [list(grid) for grid in encoder.tokenizer.hierarchy.grids(encoder.clip.extent)],
        "hierarchy": encoder.tokenizer.hierarchy.model_dump(mode="json"),
        "video": encoder.clip.model_dump(mode="json"),
        "video_tokenizer": tokenizer,
    }
    with locked(out / ".lock"):
        path = write_manifest(out, done, description)
    totals = json.loads(path.read_text())
    print(
        f"{path}: {totals['samples_out']} samples in {len(shards)} token shards; "
        f"{totals['samples_in']} in = {totals['samples_out']} out + {totals['rejected']} rejected",
        file=sys.stderr,
    )


def _interval() -> float:
    return 0.5 if sys.stderr.isatty() else 30.0


if __name__ == "__main__":
    guarded(main)
