"""A run that was not trained, and its page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hitvideo.generation.generator import Drawing, Generator, load_generator
from tests.commands.conftest import llm_run
from tests.serving.page import Client, served
from tests.tokenize_shards.helpers import save_tokenizer


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("world")
    llm_run(world / "tiny", save_tokenizer(world / "weights", 0))
    return world / "tiny"


@pytest.fixture(scope="package")
def generator(run: Path) -> Generator:
    return load_generator(run, torch.device("cpu"))


@pytest.fixture(scope="package")
def page(generator: Generator) -> Iterator[Client]:
    with served(generator) as (_, client):
        yield client


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The model waits at its first pass until this is called: what happens meanwhile does not depend on its speed."""
    free, draw = threading.Event(), Generator.draw

    def waiting(*words: object, **named: object) -> Drawing:
        assert free.wait(60)
        return draw(*words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "draw", waiting)
    yield free.set
    free.set()
