"""The same global batches for any number of ranks and threads, from any step on, with any samples damaged."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hitvideo import config
from hitvideo.data import handles
from hitvideo.data.loader import Batches, split
from hitvideo.data.manifest import write_manifest
from hitvideo.data.order import FirstOrder, Order
from hitvideo.data.rows import TokenSource
from hitvideo.data.token_format import commit, shard_paths
from hitvideo.data.token_records import TokenSample
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError, ShardError
from hitvideo.hierarchy import Hierarchy
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.sequence.vocab import BOS, EOS, Vocab
from tests.data.numbers import GLOBAL, AnySource, Numbers, global_batch, make
from tests.samples import make_token_shards, tiny_hierarchy

STEPS = 12


def all_batches(source: AnySource, ranks: int = 1, micro: int = 4, threads: int = 1) -> torch.Tensor:
    loaders = [make(source, rank, ranks, micro, threads) for rank in range(ranks)]
    found = torch.stack([global_batch(loaders, step) for step in range(STEPS)])
    for loader in loaders:
        loader.close()
    return found


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_token_shards(tmp_path_factory.mktemp("tokens"))


@pytest.fixture
def make_source(manifest: Path) -> Callable[..., TokenSource]:
    hierarchy, clip = tiny_hierarchy()
    layout = SequenceLayout(Vocab(512, hierarchy), hierarchy, clip.extent, 24)
    text = TextTokenizer.train([sample.caption for sample in TokenDataset(manifest)], 512)

    def make_it(dropout: float = 0.1, seed: int = 3, path: Path = manifest) -> TokenSource:
        return TokenSource(TokenDataset(path), layout, text, seed, dropout)

    return make_it


@pytest.mark.parametrize("threads", [0, 1, 2, 3])
@pytest.mark.parametrize(("ranks", "micro"), [(1, 16), (2, 4), (2, 8), (3, 8), (4, 4), (4, 1)])
def test_ranks_and_threads_change_nothing(
    make_source: Callable[..., TokenSource], ranks: int, micro: int, threads: int
) -> None:
    assert torch.equal(all_batches(make_source(), ranks, micro, threads), all_batches(make_source()))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_resuming_at_any_step_on_any_world(make_source: Callable[..., TokenSource], ranks: int) -> None:
    """From each step on, with different numbers of threads: the batches of a run that never stopped."""
    source = make_source()
    whole = all_batches(source)
    for first in range(STEPS):
        loaders = [make(source, rank, ranks, 4, threads=first % 4) for rank in range(ranks)]
        for step in range(first, min(first + 2, STEPS)):
            assert torch.equal(global_batch(loaders, step), whole[step])
        for loader in loaders:
            loader.close()


def test_step_s_consumes_its_own_draws() -> None:
    draws = all_batches(Numbers(50))[..., 1]
    assert draws.tolist() == np.arange(STEPS * GLOBAL).reshape(STEPS, GLOBAL).tolist()


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("batch", [GLOBAL // 2, GLOBAL + 4])
def test_another_batch_goes_on_where_the_last_one_ended(batch: int, threads: int) -> None:
    size = {"data_rank": 0, "data_ranks": 1, "micro_batch": batch, "seed": 5, "read_together": 8, "threads": threads}
    with Batches(Numbers(50), range(50), global_batch=batch, **size) as loader:
        draws = torch.cat([loader(step)[0][:, 1] for step in range(2)])
        assert draws.tolist() == list(range(2 * batch))
        loader.go_on_from(9, loader.first_draw(2) + 3)
        for step in range(9, 12):
            first = 2 * batch + 3 + (step - 9) * batch
            assert loader(step)[0][:, 1].tolist() == list(range(first, first + batch))
            assert loader.step_of(first) == loader.step_of(first + batch - 1) == step


def test_every_epoch_sees_every_sample() -> None:
    indices = all_batches(Numbers(48))[..., 0].flatten()
    for start in range(0, STEPS * GLOBAL, 48):
        assert sorted(indices[start : start + 48].tolist()) == list(range(48))


@pytest.mark.parametrize("first", range(0, STEPS, 3))
def test_resuming_at_any_step(first: int) -> None:
    whole = all_batches(Numbers(50))
    resumed = [make(Numbers(50), rank, ranks=2) for rank in range(2)]  # on another number of ranks
    for step in range(first, STEPS):
        assert torch.equal(global_batch(resumed, step), whole[step])


def test_seeds_differ() -> None:
    one, other = (make(Numbers(1000), seed=seed)(0)[0] for seed in (1, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_sample_is_replaced_by_the_next(threads: int, caplog: pytest.LogCaptureFixture) -> None:
    damaged = (7, 20, 21, 49)  # two in a row; the last one, whose successor is the first
    expected = all_batches(Numbers(50))
    for index, substitute in ((7, 8), (20, 22), (21, 22), (49, 0)):
        expected[..., 0][expected[..., 0] == index] = substitute
    with caplog.at_level(logging.WARNING):
        found = all_batches(Numbers(50, damaged), threads=threads)
    assert torch.equal(found, expected)
    assert "sample 20 is damaged" in caplog.text


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_replaced_samples_are_counted_and_read_once(threads: int) -> None:
    source = Numbers(48, (7, 20, 21))
    with make(source, threads=threads) as loader:
        for step in range(3):
            loader(step)
            assert loader.replaced == 3 * (step + 1), "a step is an epoch; what is made ahead does not count yet"
    assert [source.read[index] for index in (7, 20, 21)] == [1, 1, 1]


def test_what_fails_at_some_draws_only_is_read_again() -> None:
    """Else batches would depend on what was drawn before, and a resumed run would have others."""

    class Sometimes(Numbers):
        def tensor(self, index: int, draw: int) -> torch.Tensor:
            self.damaged = (7,) if draw % 100 < 50 else ()
            return super().tensor(index, draw)

    def loader() -> Batches:
        return Batches(
            Sometimes(48), range(48), global_batch=GLOBAL, micro_batch=4, data_rank=0, data_ranks=1, seed=1, read_together=8,
            threads=0, lasting=False,
        )  # fmt: skip

    whole, going_on = loader(), loader()
    for step in range(STEPS):
        assert torch.equal(torch.cat(whole(step)), torch.cat(loader()(step)))
        going_on(step)
    assert 0 < going_on.replaced < STEPS


def limited(source: AnySource, most: float, threads: int = 0) -> Batches:
    return Batches(
        source, range(len(source)), global_batch=GLOBAL, micro_batch=4, data_rank=0, data_ranks=1, seed=1, read_together=8,
        threads=threads, most_damaged=most,
    )  # fmt: skip


@pytest.mark.parametrize("threads", [0, 2])
def test_too_large_a_share_of_damaged_samples_is_an_error(threads: int) -> None:
    damaged = range(0, 2000, 20)

    def run(most: float) -> int:
        with limited(Numbers(2000, damaged), most, threads) as loader:
            for step in range(100):
                loader(step)
        return loader.replaced

    assert run(0.06) > 100
    with pytest.raises(ShardError, match=r"faults\.most_damaged 0\.04.*sample \d+ is damaged"):
        run(0.04)


def test_one_damaged_sample_of_a_small_set_is_no_reason_to_stop() -> None:
    loader = limited(Numbers(20, (3,)), 0.01)
    for step in range(50):
        loader(step)
    assert loader.replaced == 50 * GLOBAL // 20


@pytest.mark.parametrize("lost", [40_000, 50_000])
def test_a_lost_shard_of_any_size_is_got_past(lost: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "hitvideo")  # a line for each of them is slow
    first = 30_000
    damaged = range(first, first + lost)
    loader = make(Numbers(100_000, damaged), threads=0)
    rows = torch.cat([row for step in range(40) for row in loader(step)])
    drawn = Order(100_000, 1, 8)(np.arange(40 * GLOBAL))
    kept = np.array([index not in damaged for index in drawn.tolist()])
    assert rows[torch.from_numpy(kept), 0].tolist() == drawn[kept].tolist()
    assert loader.replaced == (~kept).sum() > 500
    assert max(Counter(rows[torch.from_numpy(~kept), 0].tolist()).values()) < 60, "what replaces them is spread"


def test_nothing_goes_on_after_the_end() -> None:
    begun: list[int] = []

    class Slow(Numbers):
        def tensor(self, index: int, draw: int) -> torch.Tensor:
            begun.append(draw)
            time.sleep(0.02)
            return super().tensor(index, draw)

    with make(Slow(1000), threads=2) as loader:
        loader(0)
    at_the_end = len(begun)
    for thread in threading.enumerate():
        if thread.name.startswith("loader"):
            thread.join(5)
    assert GLOBAL <= at_the_end <= len(begun) <= at_the_end + 2
    assert len(begun) < 3 * GLOBAL, "three steps were queued"


def test_the_order_of_an_old_checkpoint_can_be_kept() -> None:
    loader = make(Numbers(50))
    loader.use_order(1)
    assert loader.order_version == 1
    found = torch.cat(loader(0))[:, 0].tolist()
    assert found == FirstOrder(50, 1, 8)(np.arange(GLOBAL)).tolist() != Order(50, 1, 8)(np.arange(GLOBAL)).tolist()
    with pytest.raises(ConfigError, match=r"3 .* 1, 2"):
        loader.use_order(3)


@pytest.mark.parametrize("failure", ["EIO", "short"])
def test_a_store_that_falters_changes_no_batch(
    make_source: Callable[..., TokenSource], monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    whole, pread, calls = all_batches(make_source()), os.pread, Counter[str]()

    def falters(handle: int, length: int, offset: int) -> bytes:
        calls["pread"] += 1
        if failure == "EIO" and calls["pread"] % 50 == 0:
            raise OSError(errno.EIO, "Input/output error")
        return pread(handle, min(length, 3000) if failure == "short" else length, offset)

    monkeypatch.setattr(handles, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "pread", falters)
    loader = make(make_source(), threads=2)
    assert torch.equal(torch.stack([global_batch([loader], step) for step in range(STEPS)]), whole)
    assert calls["pread"] > 500
    assert loader.replaced == 0


def test_too_many_damaged_samples_are_an_error() -> None:
    with pytest.raises(ShardError, match=r"16 .*sample \d+ is damaged"):
        make(Numbers(50, tuple(range(50))))(0)


def test_a_damaged_token_shard(tmp_path: Path, make_source: Callable[..., TokenSource]) -> None:
    path = make_token_shards(tmp_path)
    whole = all_batches(make_source(path=path))
    tar, index, _ = shard_paths(tmp_path, "000000")
    content = bytearray(tar.read_bytes())
    content[int(np.load(index)[11]["offset"]) + 600] ^= 255
    tar.write_bytes(content)
    source = make_source(path=path)
    changed = (all_batches(source) != whole).flatten(2).any(-1)  # (steps, places)
    hit = all_batches(Numbers(len(source)))[..., 0] == 11
    assert hit.any()
    assert torch.equal(changed, hit)


def test_a_missing_shard_is_passed_over(tmp_path: Path, make_source: Callable[..., TokenSource]) -> None:
    """40 samples in a row are missing: the others keep their places."""
    path = make_token_shards(tmp_path, shards=3)
    whole = all_batches(make_source(path=path))
    shard_paths(tmp_path, "000001")[0].unlink()
    source = make_source(path=path)
    drawn = all_batches(Numbers(len(source)))[..., 0]
    changed = (all_batches(source, ranks=2, threads=2) != whole).flatten(2).any(-1)
    assert torch.equal(changed, (drawn >= 40) & (drawn < 80))


def one_wrong_sample(out: Path, number: int, **changed: Any) -> Path:
    """The samples of `make_token_shards` in one shard, all with right checksums; one of them is changed."""
    made = TokenDataset(make_token_shards(out / "made"))
    samples = [TokenSample(sample.key, sample.codes, sample.caption, sample.metadata) for sample in made]
    content = {**samples[number].__dict__, **changed}
    samples[number] = TokenSample(**content)
    count = {"stem": "a", "samples_in": len(samples), "samples_out": len(samples), "rejected": 0}
    assert commit(out, "a", samples, count, "test")
    description = {key: made.manifest[key] for key in ("hierarchy", "grids", "video_tokenizer")}
    return write_manifest(out, [json.loads(shard_paths(out, "a")[2].read_text())], description)


@pytest.mark.parametrize("wrong", ["codes", "captions"])
def test_what_matches_its_checksum_and_is_wrong_all_the_same_is_damage(
    tmp_path: Path, make_source: Callable[..., TokenSource], wrong: str
) -> None:
    codes = [indices.copy() for indices in make_source().dataset[11].codes]
    codes[1].flat[3] = 1 << 9
    changed: dict[str, Any] = {"codes": {"codes": codes}, "captions": {"metadata": {"captions": [7, [8]]}}}[wrong]
    source = make_source(0.0, path=one_wrong_sample(tmp_path, 11, **changed))
    expected, drawn = all_batches(make_source(0.0)), all_batches(Numbers(len(source)))[..., 0]
    assert torch.equal((all_batches(source) != expected).flatten(2).any(-1), drawn == 11)
    rows, damaged = source.rows(np.array([10, 11, 12]), np.arange(3))
    assert list(damaged) == [1]
    assert "a.tar: sample 11" in str(damaged[1])
    assert torch.equal(rows[::2], make_source(0.0).rows(np.array([10, 12]), np.array([0, 2]))[0])


def test_captions_that_are_cut_are_counted(make_source: Callable[..., TokenSource]) -> None:
    source = make_source()
    lengths = sorted(len(source.text.encode(sample.caption)) + 2 for sample in source.dataset)
    for window in (lengths[0] - 1, lengths[0], lengths[40], lengths[-1]):
        source.layout.window = window
        assert source.cut_captions() == (sum(length > window for length in lengths), 80)
    assert source.cut_captions(most=10)[1] == 10


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 1.0])
def test_caption_dropout(make_source: Callable[..., TokenSource], dropout: float) -> None:
    source = make_source(dropout)
    empty = np.array([int(source.tensor(5, draw)[1, 0]) == EOS for draw in range(2000)])
    # Standard error √(p (1 - p) / 2000), at most 0.011; four of them.
    assert empty.mean() == pytest.approx(dropout, abs=4 * (dropout * (1 - dropout) / 2000) ** 0.5)
    again = make_source(dropout)
    assert [int(again.tensor(6, draw)[1, 0]) == EOS for draw in range(200)] == empty[:200].tolist()
    if 0 < dropout < 1:
        other = make_source(dropout, seed=4)
        assert [int(other.tensor(5, draw)[1, 0]) == EOS for draw in range(200)] != empty[:200].tolist()


def test_a_row_is_its_samples(make_source: Callable[..., TokenSource]) -> None:
    source = make_source(0.0)
    sample, row = source.dataset[9], source.tensor(9, 0)
    caption = row[: source.layout.window, 0].tolist()
    assert caption[0] == BOS
    assert source.text.decode(caption[1 : caption.index(EOS)]) == sample.caption
    for found, expected in zip(source.layout.split(row.numpy()), sample.codes, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_many_rows_at_once_are_the_rows_one_by_one(make_source: Callable[..., TokenSource]) -> None:
    source = make_source(0.3)
    numbers = np.array([5, 0, 79, 5])
    rows, damaged = source.rows(numbers, np.arange(4))
    assert damaged == {}
    for row, number, draw in zip(rows, numbers, range(4), strict=True):
        sample = source.dataset[number]
        dropped = int(row[1, 0]) == EOS
        expected = source.layout.join(source.text.encode("" if dropped else sample.caption), sample.codes)
        np.testing.assert_array_equal(row.numpy(), expected)
        assert torch.equal(row, source.tensor(int(number), draw))


def test_another_hierarchys_shards_are_refused(manifest: Path) -> None:
    hierarchy, clip = tiny_hierarchy()
    other = Hierarchy(levels=hierarchy.levels[:2])
    layout = SequenceLayout(Vocab(512, other), other, clip.extent, 24)
    text = TextTokenizer.train(["a"], 512)
    with pytest.raises(ConfigError, match=r"data\.manifest .*\(2, 8, 8\), 9\)\], .*\(1, 4, 4\), 9\)\]"):
        TokenSource(TokenDataset(manifest), layout, text, 0, 0.1)
    small = SequenceLayout(Vocab(100, hierarchy), hierarchy, clip.extent, 24)
    with pytest.raises(ConfigError, match=r"text\.vocab_size 100 .*\d+ pieces"):
        TokenSource(TokenDataset(manifest), small, text, 0, 0.1)


def test_more_bits_than_the_hierarchy_are_refused(manifest: Path) -> None:
    """The grids agree but the codebooks do not: ids would be those of another level."""
    hierarchy, clip = tiny_hierarchy()
    content = hierarchy.model_dump()
    for level in content["levels"]:
        level["num_bits"] = 5
    smaller = config.build(Hierarchy, content, "test")
    layout = SequenceLayout(Vocab(512, smaller), smaller, clip.extent, 24)
    with pytest.raises(ConfigError, match=r"9\), .*, 5\)"):
        TokenSource(TokenDataset(manifest), layout, TextTokenizer.train(["a"], 512), 0, 0.1)


def test_split() -> None:
    assert split(100, 10) == (range(90), range(90, 100))
    assert split(10, 64) == (range(5), range(5, 10))
    assert split(5, 0) == (range(5), range(5, 5))


def test_no_samples() -> None:
    with pytest.raises(ConfigError, match=r"no samples.* 0"):
        make(Numbers(0))
