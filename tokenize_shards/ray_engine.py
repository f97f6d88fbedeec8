"""The Ray engine of the job: Ray Data maps shards to actors, each with its own video tokenizer and decoders.

It uses the cluster at RAY_ADDRESS, or starts one on this machine. Each actor gets a GPU if the cluster has any. Ray restarts
failed work. A shard that is done twice is committed once. To do missing shards, run the same command again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hitvideo.data.remote import Shard
from hitvideo.errors import ConfigError
from hitvideo.settings.programs import TokenizeRun
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.job import tokenize_shard
from tokenize_shards.leases import done


class ShardTokenizer:
    """An actor that loads the video tokenizer once, then tokenizes one shard after another."""

    def __init__(self, settings: dict[str, Any], workers: int) -> None:
        resolved = TokenizeRun(**settings)
        self.out = Path(str(resolved.data.out))
        self.device_tokenizer = DeviceTokenizer(resolved)
        self.pool = DecodingPool(workers, resolved.data.decode_seconds, resolved.data.decode_gib)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        tokenize_shard(row["shard"], self.out, self.device_tokenizer, self.pool)
        return {"stem": row["shard"].stem}


def run_on_ray(shards: Sequence[Shard], out: Path, settings: TokenizeRun, workers: int) -> None:
    """Tokenize all shards that have no receipt. Raises ConfigError if Ray is not installed."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray Data: run pip install 'hitvideo[ray]', or omit --engine") from error
    missing = [{"shard": shard} for shard in shards if not done(out, shard.stem)]
    if not missing:
        return
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    actors = min(len(missing), gpus or max(1, cpus // (workers + 1)))
    # An actor has its own working directory, so a relative path would not do.
    absolute = {"data": settings.data.model_copy(update={"out": str(out.resolve())})}
    content = settings.model_copy(update=absolute).model_dump(mode="json")
    rows = ray.data.from_items(missing, override_num_blocks=len(missing))
    finished = rows.map(
        ShardTokenizer,
        fn_constructor_args=(content, workers),
        num_gpus=1 if gpus else 0,
        num_cpus=min(cpus // actors, workers + 1),
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    with tqdm(desc=f"{actors} actors", total=len(missing), unit="shard", disable=not missing) as bar:
        for _ in finished.iter_rows():
            bar.update()
