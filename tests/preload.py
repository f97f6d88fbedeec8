"""What the fork server imports once, so that a rank starts in milliseconds."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import hitvideo.parallel.layers  # noqa: F401
import pretrain.__main__  # noqa: F401
