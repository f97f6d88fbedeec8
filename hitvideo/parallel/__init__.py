"""Many ranks as one: topology, Megatron layers, DeepSpeed engine, checkpoints.

What has to be said before DeepSpeed and Megatron are imported stands here.
"""

import os
import warnings

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# Both libraries warn of absent optional packages and of torch's renamed collectives, once for every rank and call site.
warnings.filterwarnings("ignore", module=r"megatron\.core\..*")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
