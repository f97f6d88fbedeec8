"""A fault of the machine, the store or the settings is not a reject: the shard fails, is tried again, and gets no receipt."""

from __future__ import annotations

import os
import pickle
import resource
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from hitvideo.data import remote
from hitvideo.errors import ConfigError, ShardError
from tests.tokenize_shards.helpers import content, words
from tokenize_shards import decoding, job, recipe
from tokenize_shards.__main__ import main
from tokenize_shards.decoding import DecodingPool, within
from tokenize_shards.rejects import RejectShare, TooManyRejectsError

QUICK = ["task.retry_seconds=0.01"]
EXIT_FAULT = 1


class Flaky(LocalFileSystem):
    """Local files as a store that fails at every n-th request."""

    protocol = "flaky"
    requests = 0
    every = 7

    def cat_file(self, path: str, start: Any = None, end: Any = None, **more: Any) -> Any:
        Flaky.requests += 1
        if Flaky.requests % Flaky.every == 0:
            raise OSError("the store is away")
        return super().cat_file(path, start, end, **more)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[Flaky]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    Flaky.requests, Flaky.every = 0, 7
    return Flaky


@pytest.fixture
def quiet(weights: Path, videos: Path, tmp_path: Path) -> dict[str, bytes]:
    assert main(words(weights, videos, tmp_path / "quiet")) == 0
    return content(tmp_path / "quiet")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_that_fails_at_every_seventh_read(
    weights: Path, videos: Path, quiet: dict[str, bytes], tmp_path: Path, store: type[Flaky], workers: int
) -> None:
    assert main(words(weights, f"flaky://{videos}", tmp_path / "out", *QUICK, f"data.workers={workers}")) == 0
    assert store.requests > 14
    assert content(tmp_path / "out") == quiet


def test_a_store_that_fails_always(
    weights: Path, videos: Path, quiet: dict[str, bytes], tmp_path: Path, store: type[Flaky], capfd: pytest.CaptureFixture[str]
) -> None:
    """No receipt, no reject, exit code 1 and a list; when the store is back the same command gives the same bytes."""
    store.every = 1
    out = tmp_path / "out"
    arguments = words(weights, f"flaky://{videos}", out, *QUICK)
    assert main(arguments) == EXIT_FAULT
    assert "000003.tar: the store is away" in capfd.readouterr().err
    assert content(out).keys() == {"contract.json"}
    store.every = 10**9
    assert main(arguments) == 0
    assert content(out) == quiet


def test_a_shard_that_fails_does_not_stop_the_others(
    weights: Path, videos: Path, quiet: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read = tmp_path / "out", recipe.read

    def broken(shard: Any, member: Any) -> Any:
        if shard.stem == "000001":
            raise RuntimeError("something nobody thought of")
        return read(shard, member)

    monkeypatch.setattr(recipe, "read", broken)
    assert main(words(weights, videos, out, *QUICK)) == EXIT_FAULT
    assert {path.name[:6] for path in out.glob("*.receipt.json")} == {"000000", "000002", "000003"}
    monkeypatch.undo()
    assert main(words(weights, videos, out)) == 0
    assert content(out) == quiet


def test_a_stalled_store_fails_the_shard(
    weights: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalling(shard: Any, member: Any) -> Any:
        return time.sleep(60) if shard == videos / "000000.tar" else READ(shard, member)

    monkeypatch.setattr(recipe, "read", stalling)
    started = time.monotonic()
    more = ["data.read_seconds=0.3", "data.workers=2", "task.attempts=1"]
    assert main(words(weights, videos, tmp_path / "out", *QUICK, *more)) == EXIT_FAULT
    assert time.monotonic() - started < 30
    assert len(list((tmp_path / "out").glob("*.receipt.json"))) == 3


READ = recipe.read


def test_a_worker_that_vanishes(
    weights: Path, videos: Path, quiet: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment that is moved away: no video is rejected for it."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    out, take = tmp_path / "out", decoding._Worker.decode

    def once(self: Any, *arguments: Any) -> Any:
        found = take(self, *arguments)
        python.unlink(missing_ok=True)
        self.close()
        self._process = None
        return found

    monkeypatch.setattr(decoding._Worker, "decode", once)
    assert main(words(weights, videos, out, *QUICK, "data.workers=1")) == EXIT_FAULT
    assert not list(out.glob("*.receipt.json"))
    monkeypatch.undo()
    assert main(words(weights, videos, out, "data.workers=1")) == 0
    assert content(out) == quiet


def test_a_disk_that_fills(
    weights: Path, videos: Path, quiet: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it commits, the system refuses files of more than 10 kB, as on a full disk."""
    out, commit = tmp_path / "out", job.commit

    def on_a_full_disk(*arguments: Any) -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        try:
            return commit(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    monkeypatch.setattr(job, "commit", on_a_full_disk)
    assert main(words(weights, videos, out, *QUICK)) == EXIT_FAULT
    assert {path.name for path in out.iterdir()} <= {"contract.json", ".lock"}, "nothing half written is left"
    monkeypatch.undo()
    assert main(words(weights, videos, out)) == 0
    assert content(out) == quiet


# ------------------------------------------------------------------------------------------------ settings that fit nothing


@pytest.mark.parametrize(("word", "named"), [
    ("data.decode_gib=0.01", "data.decode_gib"),
    ("limits.max_pixels=100", "limit"),
    ("limits.max_bytes=10", "limit"),
    ("limits.max_seconds=0.01", "limit"),
])  # fmt: skip
def test_settings_that_no_video_fits(weights: Path, videos: Path, tmp_path: Path, word: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        main(words(weights, videos, tmp_path / "out", "data.workers=1", word))
    assert not list((tmp_path / "out").glob("*.receipt.json"))


def test_token_shards_as_videos(weights: Path, videos: Path, tmp_path: Path) -> None:
    assert main(words(weights, videos, tmp_path / "tokens")) == 0
    with pytest.raises(ShardError, match=r"(\d+) of \1 .*task\.most_rejected.*no_video \1"):
        main(words(weights, tmp_path / "tokens" / "0*.tar", tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_share_of_rejects() -> None:
    share = RejectShare(0.5)
    share.take(100, {"corrupt": 35, "download_failed": 30}, "a.mp4 is cut")
    share.check()
    assert (share.videos, share.reasons.total()) == (70, 35)


def test_too_many_rejects_are_listed_by_reason() -> None:
    share = RejectShare(0.5)
    share.take(63, {"corrupt": 63})
    share.check()  # too few to judge while it runs
    share.take(1, {"too_long": 1}, "b.mp4 lasts 9 h")
    with pytest.raises(TooManyRejectsError, match=r"64 of 64 .*corrupt 63, too_long 1.*b\.mp4"):
        share.check()


# ------------------------------------------------------------------------------------------------ workers


def test_a_worker_has_no_credentials(shard_with_one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hitvideo.data.video_shards import scan

    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MY_TOKEN"):
        monkeypatch.setenv(name, "SECRET")
    member = scan(shard_with_one).samples[0]
    with DecodingPool(1, 60, 4) as pool:
        pool.submit(shard_with_one, member, RECIPE).result(60)
        workers = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if b"tokenize_shards.worker" in reading(path)]
        mine = [path for path in workers if f"PPid:\t{os.getpid()}\n" in (path / "status").read_text()]
        assert mine
        assert all(b"SECRET" not in (path / "environ").read_bytes() for path in mine)


def test_a_worker_that_answers_nonsense(shard_with_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile answer is not unpickled, does not allocate, and does not hang."""
    from hitvideo.data.video_shards import scan

    member = scan(shard_with_one).samples[0]
    touched = tmp_path / "touched"
    hostile = f"cos\nsystem\n(S'touch {touched}'\ntR.".encode()  # a pickle that runs a command
    hostile = len(hostile).to_bytes(8, "little") + hostile
    ready = b"\x0f\0\0\0\0\0\0\0" + b'{"ready": true}'
    for number, answer in enumerate([
        b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b'\x10\0\0\0\0\0\0\0{"seconds": 0.1}', hostile,
        b'\x2b\0\0\0\0\0\0\0{"seconds": 1, "bucket": 0, "clips": 1000 }',
    ]):  # fmt: skip
        script = tmp_path / f"worker{number}"
        script.write_text(f"#!{sys.executable}\nimport os, sys\nos.write(1, {ready + answer!r})\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        with DecodingPool(1, 60, 4) as pool, pytest.raises(decoding.WorkerError):
            pool.submit(shard_with_one, member, RECIPE).result(30)
        assert not touched.exists()
        monkeypatch.undo()
    pickle.loads(hostile[8:])
    assert touched.exists(), "a reader that unpickled it would have run it"


def reading(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def shard_with_one(videos: Path) -> Path:
    return sorted(videos.glob("*.tar"))[0]


def recipe_of(weights: Path) -> recipe.Recipe:
    from hitvideo.settings.data import LimitsSection
    from tests.samples import tiny_hierarchy

    return recipe.Recipe((tiny_hierarchy()[1],), "cover", 1, None, LimitsSection())


RECIPE = recipe_of(Path())


def test_a_call_that_hangs() -> None:
    with pytest.raises(TimeoutError, match=r"a thing.*data\.read_seconds 0\.05"):
        within(0.05, "a thing", lambda: time.sleep(5))
    with pytest.raises(TimeoutError, match="its own"):
        within(5, "a thing", raising)
    assert within(5, "a thing", lambda: 7) == 7


def raising() -> None:
    raise TimeoutError("its own")
