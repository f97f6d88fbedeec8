"""One cluster for all tests here: it takes seconds to start, and its nodes come back when they were powered off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = missing()
    if reason:
        pytest.skip(f"no Slurm cluster: {reason}")
    with Cluster(nodes=4) as running:
        print(f"Slurm cluster of {len(running.nodes)} nodes, {running.tracking}, namespaces: {running.namespaces}")
        yield running
