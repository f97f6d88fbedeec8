"""Checkpoints written by hand, as ranks of any layout would leave them: no engine, no ranks."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from hitvideo.checkpoints.listing import FORMAT, STATE_FILE, state_digest
from hitvideo.files import replace_json, sha256

DIVIDED = {"rows": 0, "columns": 1, "norm": -1}


def write_checkpoint(path: Path, weights: dict[str, torch.Tensor], tensor: int, shards: int) -> Path:
    """`weights`, whole, as tensor × shards ranks of ZeRO-3 write them: every share is flattened and cut into equal parts."""
    path.mkdir(parents=True)
    files = {}
    for rank in range(tensor * shards):
        shard, tensor_rank = divmod(rank, tensor)
        tensors, index = {}, []
        for name, whole in weights.items():
            dim = DIVIDED.get(name, -1)
            share = (whole if dim < 0 else whole.chunk(tensor, dim)[tensor_rank]).flatten()
            part = -(-len(share) // shards)
            piece = share[shard * part : (shard + 1) * part]
            if len(piece):
                index.append({"name": name, "offset": shard * part, "length": len(piece)})
                tensors[f"{name}@{shard * part}/fp32"] = piece.clone()
        file = path / f"rank-{rank:05d}.safetensors"
        save_file(tensors, file)
        replace_json(file.with_suffix(".json"), {"tensor_rank": tensor_rank, "fragments": index})
        files |= {each.name: [each.stat().st_size, sha256(each)] for each in (file, file.with_suffix(".json"))}
    parameters = {name: [list(whole.shape), DIVIDED.get(name, -1)] for name, whole in weights.items()}
    state = {"format": FORMAT, "step": 1, "world": tensor * shards, "tensor": tensor, "parameters": parameters, "files": files}
    replace_json(path / STATE_FILE, {**state, "sha256": state_digest(state)})
    return path
