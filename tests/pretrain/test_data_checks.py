"""What a run says about its data, refuses at its start, counts on its way, and keeps when it goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from hitvideo.checkpoints.listing import STATE_FILE, complete, read_state, state_digest
from hitvideo.data.order import Order
from hitvideo.data.rows import TokenSource
from hitvideo.data.spot_check import spot_check
from hitvideo.data.token_format import shard_paths
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ShardError
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.sequence.vocab import Vocab
from pretrain.data_checks import log_cut_captions
from pretrain.language_model import main
from tests.pretrain.runs import run, words
from tests.samples import make_token_shards, tiny_hierarchy
from tests.worlds import RankError, run_ranks, start_ranks


def damage_unseen(manifest: Path) -> int:
    """Damage a sample of the first shard that the check at the start does not look at; returns its number."""
    tar, index, _ = shard_paths(manifest.parent, "000000")
    whole, entries = tar.read_bytes(), np.load(index)
    for number in range(1, len(entries) - 1):
        content = bytearray(whole)
        content[int(entries[number]["offset"]) + 600] ^= 255
        tar.write_bytes(content)
        try:
            spot_check([TokenDataset(manifest)], 0)
        except ShardError:
            continue
        return number
    raise AssertionError("every sample was looked at")


def test_damage_is_counted_and_a_checkpoint_keeps_its_order(tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path / "tokens")
    damaged = damage_unseen(manifest)
    rows = run(tmp_path, manifest, "a", 2, "checkpoint.every=99")
    drawn = Order(72, 0, 256)(np.arange(80)).reshape(10, 8)
    assert [row["damaged"] for row in rows] == (drawn == damaged).sum(1).tolist()
    assert sum(row["damaged"] for row in rows) >= 1

    (checkpoint,) = complete(tmp_path / "a/checkpoints")
    state = read_state(checkpoint)
    assert state.pop("order") == 2
    (checkpoint / STATE_FILE).write_text(json.dumps({**state, "sha256": state_digest(state)}))
    (tmp_path / "a/DONE").unlink()
    run(tmp_path, manifest, "a", 1, "train.steps=11")
    assert read_state(complete(tmp_path / "a/checkpoints")[-1])["order"] == 1


def test_a_lost_shard_is_refused_at_the_start_by_all_ranks(tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path / "tokens")
    shard_paths(manifest.parent, "000001")[0].unlink()
    with pytest.raises(RankError, match=r"ShardError.*000001\.tar"):
        run_ranks(main, 2, words(tmp_path, manifest, "a"))
    ranks = start_ranks(main, 2, words(tmp_path, manifest, "b"))  # run_ranks ends the others as soon as one fails
    for rank in ranks:
        rank.join(60)
    assert all(rank.exitcode not in (None, 0) for rank in ranks)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("window", "level"), [(4, logging.WARNING), (64, logging.INFO)])
def test_the_share_of_captions_that_is_cut_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, window: int, level: int
) -> None:
    hierarchy, clip = tiny_hierarchy()
    layout = SequenceLayout(Vocab(512, hierarchy), hierarchy, clip.extent, window)
    dataset = TokenDataset(make_token_shards(tmp_path))
    with caplog.at_level(logging.INFO):
        log_cut_captions(TokenSource(dataset, layout, TextTokenizer.train(dataset.captions(), 512), 0, 0.0))
    (line,) = caplog.records
    assert line.levelno == level
    assert ("80 of 80" if window == 4 else "0 of 80") in line.message
