"""What the fork server imports once, so that a rank starts in milliseconds."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pretrain.language_model_task
import pretrain.loop
import pretrain.video_tokenizer_task  # noqa: F401
