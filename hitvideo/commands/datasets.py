"""Commands that make and check datasets."""

from __future__ import annotations

import argparse
import sys

from hitvideo import config
from hitvideo.commands.common import progress_bar
from hitvideo.errors import ConfigError


def pack(words: argparse.Namespace) -> None:
    from hitvideo.data.pack import pack

    with progress_bar(None, "video") as bar:
        summary = pack(words.src, words.out, words.per_shard, bar.update)
    print(
        f"{words.out}: {summary.packed} videos in {len(summary.shards)} video shards; "
        f"{summary.found} found = {summary.packed} packed + {len(summary.no_caption)} without caption"
    )


def moving_shapes(words: argparse.Namespace) -> None:
    from hitvideo.data.pack import write_moving_shapes
    from hitvideo.hierarchy import ClipShape

    clip = ClipShape(frames=8, height=32, width=32, fps=8)
    if words.hierarchy:
        content = config.resolve(words.hierarchy)
        if "clip" not in content:
            raise ConfigError(f"{words.hierarchy}: has no `clip:` section to take length and size from")
        clip = config.build(ClipShape, content["clip"], f"{words.hierarchy}: clip")
    with progress_bar(words.num, "clip") as bar:
        shards = write_moving_shapes(words.out, words.num, words.seed, clip, words.objects, words.per_shard, bar.update)
    print(f"{words.out}: {words.num} clips in {len(shards)} video shards")


def text_tokenizer(words: argparse.Namespace) -> None:
    from hitvideo.data.token_shards import TokenDataset
    from hitvideo.sequence.text import TextTokenizer

    dataset = TokenDataset(words.manifest)
    text = TextTokenizer.train(dataset.captions(), words.vocab_size)
    text.save(words.out)
    print(f"{words.out}: {text.size} pieces from the captions of {len(dataset)} samples")


def verify(words: argparse.Namespace) -> int:
    from hitvideo.data.verify import verify

    faults = 0
    for fault in verify(words.manifest):
        faults += 1
        print(fault, file=sys.stderr)
    print(f"{words.manifest}: " + (f"{faults} faults" if faults else "every receipt, checksum and sample is as it says"))
    return 1 if faults else 0
