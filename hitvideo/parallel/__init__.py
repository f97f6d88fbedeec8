"""Training on many ranks: topology, Megatron layers, the DeepSpeed engine, checkpoints.

This file sets what must be set before DeepSpeed and Megatron are imported.
"""

import os
import warnings

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# Both libraries warn about missing optional packages and torch's renamed collectives, once per rank and call site.
warnings.filterwarnings("ignore", module=r"megatron\.core\..*")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
