"""The contract of an output directory: the settings that decide the content of all its token shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError
from hitvideo.files import json_bytes, process_name, read_json, write_synced
from tokenize_shards.encoder import DeviceTokenizer

CONTRACT = "contract.json"


def settle_contract(out: Path, device_tokenizer: DeviceTokenizer) -> None:
    """Write the contract if this task is the first; otherwise compare this task's contract with it.

    Raises ConfigError if `out` holds token shards of another video tokenizer, other clips or other limits.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONTRACT
    content: dict[str, Any] = {"contract": device_tokenizer.contract, "video_tokenizer": device_tokenizer.fingerprint}
    content |= device_tokenizer.recipe.described()
    content |= {"dtype": str(device_tokenizer.dtype).removeprefix("torch."), "chunk": device_tokenizer.settings.data.chunk}
    temporary = out / f".{CONTRACT}.{process_name()}"
    write_synced(temporary, json_bytes(content))
    try:
        os.link(temporary, path)
    except PermissionError as error:
        raise ConfigError(f"data.out {out}: its file system has no hard links, which commits need: {error}") from error
    except FileExistsError:
        found = read_json(path, "contract of a job; if its token shards are not needed, delete the directory")
        if found.get("contract") != device_tokenizer.contract:
            keys = [key for key in content if content[key] != found.get(key) and key != "contract"]
            raise ConfigError(
                f"data.out {out} was made with other settings: {', '.join(keys)} (contract {found.get('contract')}, now "
                f"{device_tokenizer.contract}); set data.out to an empty directory, or delete the old shards"
            ) from None
    finally:
        temporary.unlink(missing_ok=True)
