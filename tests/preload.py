"""What the fork server imports once, so that a rank starts in milliseconds."""

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import hitvideo.parallel.layers  # noqa: F401 — with it Megatron, which programs import when they have ranks
import pretrain.language_model_task
import pretrain.loop
import pretrain.video_tokenizer_task  # noqa: F401

gc.freeze()  # DeepSpeed collects garbage several times as it starts: ranks need not look through what is imported
