"""DeepSpeed's JSON from typed settings, with those of its defaults overridden that are wrong here."""

from __future__ import annotations

from typing import Any

import torch

from hitvideo.errors import ConfigError
from hitvideo.settings.training import ParallelSection, TrainSection

PERSISTENT = 100_000
"""ZeRO-3 keeps parameters of at most this many entries whole on each rank: to gather one costs more than to hold it."""


def deepspeed_config(parallel: ParallelSection, train: TrainSection, accumulation: int, block: int = 0) -> dict[str, Any]:
    """Build DeepSpeed's JSON. Gradients accumulate and are reduced in fp32; by default DeepSpeed would use the model's bf16.

    `block`: weights of the largest module that ZeRO-3 gathers at once. Smaller buckets would fetch a part of it only when it
    is needed, and reduce its gradients in pieces. Raises ConfigError for parallel.zero_stage 0 with train.dtype bf16.
    """
    overlap = torch.cuda.is_available()
    if parallel.zero_stage == 0 and train.dtype == "bf16":
        raise ConfigError(
            "parallel.zero_stage 0 does not work with train.dtype bf16: DeepSpeed cannot keep fp32 gradients there; use "
            "parallel.zero_stage=1, which gives the same numbers and only divides Adam's states"
        )
    zero: dict[str, Any] = {"stage": parallel.zero_stage, "contiguous_gradients": True, "overlap_comm": overlap}
    zero["reduce_bucket_size"] = parallel.bucket
    if parallel.zero_stage == 3:
        zero["reduce_bucket_size"] = zero["stage3_prefetch_bucket_size"] = max(parallel.bucket, block)
        zero["stage3_param_persistence_threshold"] = PERSISTENT
        zero["stage3_max_live_parameters"] = zero["stage3_max_reuse_distance"] = parallel.live_parameters
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": train.dtype == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": 1 << 30,
    }
