"""Which node has a slow link: the arithmetic, on times of made-up clusters."""

from __future__ import annotations

import re

import pytest

from hitvideo.parallel.links import Link, all_reduce_rate, expected_rate, is_slow, nodes_of, rounds, slow_links
from hitvideo.settings.cluster import ClusterSection

CLUSTER = ClusterSection(peak_tflops=989, memory_gib=80, near_gbs=450, nic_gbs=50)
MIB = 256


def hosts(number: int) -> list[str]:
    return [f"n{host}" for host in range(number)]


def seconds(rate: float, ranks: int) -> float:
    return 2 * (ranks - 1) / ranks * MIB * 2**20 / (rate * 1e9)


def links(number: int, bad: dict[int, float], inside: dict[int, float] | None = None, usual: float = 320.0) -> list[Link]:
    """Nodes of eight ranks: `bad` is host → the rate that its network allows, `inside` → that of its own links."""
    found = []
    for groups in rounds(hosts(number)):
        for group in groups:
            numbers = [int(host[1:]) for host in group]
            own = min((inside or {}).get(host, 400.0) for host in numbers)
            rate = own if len(group) == 1 else min(own, usual, *(bad.get(host, usual) for host in numbers))
            found.append(Link(group, 8 * len(group), seconds(rate, 8 * len(group))))
    return found


def named(found: list[Link]) -> set[str]:
    return {host for text in slow_links(found, MIB, CLUSTER) for host in re.findall(r"--exclude=(\w+)", text)}


def test_the_rate_is_what_a_rank_sends() -> None:
    """Four ranks: 2 · 3/4 · 256 MiB in 5 ms are 80.53 GB/s, as NCCL's tests count it."""
    assert all_reduce_rate(256, 0.005, 4) == pytest.approx(80.530637)
    assert expected_rate({"n0": range(8)}, CLUSTER) == 450
    assert expected_rate({"n0": range(8), "n1": range(8)}, CLUSTER) == 400, "eight adapters of 50"
    assert expected_rate({"n0": range(2), "n1": range(2)}, CLUSTER) == 100
    two = nodes_of(["n0", "n0", "n1", "n1"])
    assert two == {"n0": [0, 1], "n1": [2, 3]}
    assert not is_slow(MIB, seconds(30.1, 4), two, CLUSTER)
    assert is_slow(MIB, seconds(29.9, 4), two, CLUSTER)
    assert not is_slow(MIB, 10.0, {"n0": [0]}, CLUSTER), "one rank sends nothing"


@pytest.mark.parametrize("number", [2, 3, 4, 5, 8, 127, 128])
def test_each_node_is_alone_once_and_in_two_pairs(number: int) -> None:
    found = rounds(hosts(number))
    for groups in found:
        flat = [host for group in groups for host in group]
        assert len(flat) == len(set(flat)), "a round's groups have no node in common"
    pairs = [frozenset(group) for groups in found for group in groups if len(group) == 2]
    assert found[0] == [(host,) for host in hosts(number)]
    assert len(pairs) == len(set(pairs))
    expected = 1 if number == 2 else 2
    assert {sum(host in pair for pair in pairs) for host in hosts(number)} == {expected}
    assert len(found) <= 4


@pytest.mark.parametrize("number", [3, 4, 5, 16])
def test_a_bad_adapter_is_named_wherever_it_is(number: int) -> None:
    for host in range(number):
        assert named(links(number, {host: 20.0})) == {f"n{host}"}
    assert named(links(16, {3: 20.0, 4: 20.0, 9: 5.0})) == {"n3", "n4", "n9"}


def test_a_node_that_is_slow_inside_is_not_blamed_for_its_network() -> None:
    (text,) = slow_links(links(4, {}, inside={2: 20.0}), MIB, CLUSTER)
    assert text.startswith("inside n2 ")
    assert named(links(8, {5: 20.0}, inside={4: 20.0})) == {"n4", "n5"}


@pytest.mark.parametrize("found", [links(2, {1: 20.0}), links(4, {}, usual=20.0), links(4, {1: 15.0}, usual=20.0)])
def test_nobody_is_named_if_the_network_is_slow_for_all(found: list[Link]) -> None:
    """Two nodes have one link; and a node at three quarters of a slow network's rate is not the cause."""
    (text,) = slow_links(found, MIB, CLUSTER)
    assert not named(found)
    assert "near_gbs" not in text
