"""Commands that make and check datasets."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter

from hitvideo.commands.common import check_output, progress_bar
from hitvideo.errors import ConfigError, short

LARGEST_VOCABULARY = 1 << 24
LEFT_OUT = {
    "no_caption": "without caption", "bad_caption": "with a caption that cannot be read", "bad_metadata": "with bad metadata",
    "timed_captions": "with captions of parts", "missing": "missing", "outside": "outside the folder",
    "duplicate": "listed before", "filtered": "filtered out", "other_kind": "of other kinds", "cannot_read": "unreadable",
}  # fmt: skip


def pack(words: argparse.Namespace) -> None:
    from hitvideo.data.names import printable
    from hitvideo.data.pack import pack
    from hitvideo.data.sources import Choice

    choice = Choice(
        words.file_column,
        words.caption_column,
        words.file_template,
        words.root,
        tuple((column, _number(value, column)) for column, value in _equations(words.min, "--min")),
        tuple((column, _number(value, column)) for column, value in _equations(words.max, "--max")),
        tuple(_equations(words.where, "--where")),
    )
    with progress_bar(None, "video") as bar:
        summary = pack(words.src, words.out, words.per_shard, bar.update, choice, words.shuffle, words.dry_run)
    shards = -(-summary.packed // words.per_shard) if words.dry_run else len(summary.shards)
    parts = [f"{summary.found} found = {summary.packed} packed"]
    for reason, text in LEFT_OUT.items():
        places = summary.left_out.get(reason, [])
        kinds = Counter(f".{place.rpartition('.')[2].lower()[:8]}" for place in places) if reason == "other_kind" else {}
        named = f" ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})" if kinds else ""
        parts += [f"{len(places)} {text}{named}"] if places or reason == "no_caption" else []
    would = "would write " if words.dry_run else ""
    print(f"{printable(str(words.out))}: {would}{summary.packed} videos in {shards} video shards; {' + '.join(parts)}")


def _equations(words: list[str], option: str) -> list[tuple[str, str]]:
    """Pairs of column and value."""
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{option} {word}: write COLUMN=VALUE")
    return [(column, value) for column, _, value in (word.partition("=") for word in words)]


def _number(text: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{column}={text}: --min and --max need a number")
    return value


def moving_shapes(words: argparse.Namespace) -> None:
    from hitvideo import config
    from hitvideo.data.pack import write_moving_shapes
    from hitvideo.hierarchy import ClipShape
    from hitvideo.moving_shapes.scenes import check_hold_out

    if words.hold_out is not None:
        check_hold_out(words.hold_out)
    clip = ClipShape(frames=8, height=32, width=32, fps=8)
    if words.hierarchy:
        content = config.resolve(words.hierarchy)
        if "clip" not in content:
            raise ConfigError(f"{words.hierarchy}: has no `clip:` section to take length and size from")
        clip = config.build(ClipShape, content["clip"], f"{words.hierarchy}: clip")
    with progress_bar(words.num, "clip") as bar:
        numbers = words.num, words.seed, clip, words.objects, words.per_shard
        shards = write_moving_shapes(words.out, *numbers, bar.update, words.hold_out or 0.0)
    held_out = f"; {check_hold_out(words.hold_out)} combinations of colour, shape and motion held out" if words.hold_out else ""
    print(f"{words.out}: {words.num} clips in {len(shards)} video shards{held_out}")


def text_tokenizer(words: argparse.Namespace) -> None:
    from hitvideo.data.token_shards import TokenDataset
    from hitvideo.sequence.text import MOST_CAPTIONS, TextTokenizer

    check_output(words.out, ".model")
    if words.vocab_size > LARGEST_VOCABULARY:
        raise ConfigError(f"--vocab-size {short(words.vocab_size)}: at most {LARGEST_VOCABULARY} are possible")
    datasets = [TokenDataset(manifest) for manifest in words.manifest]
    samples = sum(map(len, datasets))
    # Of each dataset a part in proportion to its size, as in a blend.
    shares = [max(1, MOST_CAPTIONS * len(dataset) // max(1, samples)) for dataset in datasets]
    captions = (text for dataset, most in zip(datasets, shares, strict=True) for text in dataset.captions(most))
    text = TextTokenizer.train(captions, words.vocab_size)
    text.save(words.out)
    print(f"{words.out}: {text.size} pieces from the captions of {samples} samples")


def verify(words: argparse.Namespace) -> int:
    from hitvideo.data.verify import shards_of, verify

    faults = 0
    with progress_bar(shards_of(words.manifest), "shard") as bar:
        for fault in verify(words.manifest, words.jobs, bar.update):
            faults += 1
            bar.write(fault, file=sys.stderr)
    print(f"{words.manifest}: " + (f"{faults} faults" if faults else "every receipt, checksum and sample is as it says"))
    return 1 if faults else 0
