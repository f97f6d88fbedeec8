"""Leases: a shard belongs to one task until that task is silent for too long."""

from __future__ import annotations

import time
from pathlib import Path

from tokenize_shards.leases import Failures, Flush, Leases, claims, deal_shards


def test_the_plan_evens_out_bytes() -> None:
    shards = [Path(f"{k:02d}.tar") for k in range(20)]
    sizes = [1000, *[50] * 19]
    shares = deal_shards(shards, sizes, 4)
    assert sorted(shard for share in shares for shard in share) == shards
    loads = [sum(sizes[int(shard.stem)] for shard in share) for share in shares]
    assert max(loads) == 1000
    assert sorted(loads)[:3] == [300, 300, 350]
    assert all(share == sorted(share) for share in shares)
    assert deal_shards(shards[:2], [1, 1], 5)[2:] == [[], [], []]


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with Leases(tmp_path, 100) as one, Leases(tmp_path, 100) as other:
        assert one.take("a")
        assert not other.take("a")
        assert not one.take("a"), "this task already holds it"
        assert other.take("b")
        one.release("a")
        assert other.take("a")
    assert not (tmp_path / ".leases").exists()


def test_a_stale_lease_is_taken_over(tmp_path: Path) -> None:
    with Leases(tmp_path, 0.4) as alive, Leases(tmp_path, 0.4) as other:
        (alive.folder / "dead.lease").touch()
        assert alive.take("mine")
        assert not other.take("dead")
        time.sleep(0.7)
        assert other.take("dead")
        assert not other.take("mine"), "its owner is alive"


def test_a_late_owner_does_not_remove_its_successors_lease(tmp_path: Path) -> None:
    with Leases(tmp_path, 100) as late, Leases(tmp_path, 100) as successor, Leases(tmp_path, 100) as third:
        assert late.take("a")
        (late.folder / "a.lease").unlink()  # as if it had been silent for too long
        assert successor.take("a")
        late.release("a")
        assert not third.take("a")


def test_a_failed_shard_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    shards = [tmp_path / "0.tar", tmp_path / "1.tar"]
    failures, tried = Failures(3, 0.01), []
    with Leases(tmp_path, 100) as leases:
        for shard in claims(shards, [], tmp_path, leases, lambda: False, failures):
            if isinstance(shard, Flush):
                continue
            tried.append(shard.stem)
            works = shard.stem == "0" or tried.count("1") == 4
            if works:
                (tmp_path / f"{shard.stem}.receipt.json").touch()
            failures.note(shard, None if works else OSError("the store is away"))
            leases.release(shard.stem)
    assert tried == ["0", "1", "1", "1"]
    assert list(failures.last) == [shards[1]]


def test_claims(tmp_path: Path) -> None:
    """A task does its own shards, then the others'. It waits for shards that live tasks hold, and does them if a task dies."""
    shards = [tmp_path / f"{k}.tar" for k in range(5)]

    def finish(stem: str) -> None:
        (tmp_path / f"{stem}.receipt.json").touch()

    finish("1")
    with Leases(tmp_path, 0.4) as leases:
        (leases.folder / "3.lease").touch()  # its task is dead and never touches it
        running = claims(shards[:2], shards[2:], tmp_path, leases, lambda: False, Failures(3, 0))
        found = []
        start = time.monotonic()
        for shard in running:
            found.append(shard)
            if isinstance(shard, Flush):
                for stem in ("0", "2", "4"):
                    finish(stem)
            elif shard.stem == "3":
                finish("3")
        assert [shard.stem for shard in found if shard] == ["0", "2", "4", "3"]
        assert time.monotonic() - start >= 0.3
        assert found[3] == Flush(), "before waiting, it asks the caller to finish its work"


def test_only_one_task_waits(tmp_path: Path) -> None:
    with Leases(tmp_path, 100) as one, Leases(tmp_path, 100) as other:
        assert one.take("0")
        assert one.take("watch")
        assert list(claims([tmp_path / "0.tar"], [], tmp_path, other, lambda: False, Failures(3, 0))) == [Flush()]
        assert list(claims([tmp_path / "0.tar"], [], tmp_path, other, lambda: True, Failures(3, 0))) == []
