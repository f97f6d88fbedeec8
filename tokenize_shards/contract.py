"""What an output directory belongs to."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hitvideo.errors import ConfigError
from hitvideo.files import json_bytes, process_name, write_synced
from tokenize_shards.encoder import Encoder

CONTRACT = "contract.json"


def settle_contract(out: Path, encoder: Encoder) -> None:
    """The first task writes down what decides the content of all shards; the others, and later runs, must agree.

    Raises ConfigError where `out` holds token shards of another tokenizer, other clips or limits.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONTRACT
    content = {"contract": encoder.contract, "video_tokenizer": encoder.fingerprint, **encoder.recipe.described()}
    content |= {"dtype": str(encoder.dtype).removeprefix("torch."), "chunk": encoder.settings.data.chunk}
    temporary = out / f".{CONTRACT}.{process_name()}"
    write_synced(temporary, json_bytes(content))
    try:
        os.link(temporary, path)
    except FileExistsError:
        found = json.loads(path.read_text())
        if found["contract"] != encoder.contract:
            keys = [key for key in content if content[key] != found.get(key) and key != "contract"]
            raise ConfigError(
                f"{out} was made with another tokenizer, clip or limits ({', '.join(keys)} differ: contract "
                f"{found['contract']}, now {encoder.contract}); name an empty data.out, or remove the old shards"
            ) from None
    finally:
        temporary.unlink(missing_ok=True)
