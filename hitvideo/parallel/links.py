"""Which node has a slow link, from the times of all-reduces inside nodes and between pairs of neighbouring nodes.

Rates are those of NCCL's tests ("bus bandwidth"): a rank of n sends 2 (n - 1) / n of the buffer, whatever the algorithm, so the
rates of small and large groups can be compared. Source: NVIDIA/nccl-tests, doc/PERFORMANCE.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hitvideo.settings.cluster import ClusterSection

SLOW = 0.3
"""Of the rate that the settings expect: less is a link that is down or goes another way."""
_SLOWER = 2.0  # times the fastest group of its kind; a network that is slow for all is nobody's fault


@dataclass(frozen=True)
class Link:
    """The all-reduce of one node's ranks, or of two nodes'."""

    hosts: tuple[str, ...]
    ranks: int
    seconds: float


def all_reduce_rate(mib: float, seconds: float, ranks: int) -> float:
    """10⁹ bytes a second that each of `ranks` sends in an all-reduce of `mib` MiB."""
    return 2 * (ranks - 1) / ranks * mib * 2**20 / seconds / 1e9


def expected_rate(nodes: Mapping[str, Sequence[int]], cluster: ClusterSection) -> float:
    """The same rate by the cluster's figures; each node has one or more of its ranks in the group."""
    if len(nodes) == 1:
        return cluster.near_gbs
    return min(cluster.near_gbs, cluster.far_gbs * min(map(len, nodes.values())))


def is_slow(mib: float, seconds: float, nodes: Mapping[str, Sequence[int]], cluster: ClusterSection) -> bool:
    """Whether the all-reduce of all ranks is far slower than expected; that of one rank sends nothing."""
    ranks = sum(map(len, nodes.values()))
    return ranks > 1 and all_reduce_rate(mib, seconds, ranks) < SLOW * expected_rate(nodes, cluster)


def nodes_of(hosts: Sequence[str]) -> dict[str, list[int]]:
    """Host → its ranks, from every rank's host."""
    found: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        found.setdefault(host, []).append(rank)
    return found


def rounds(hosts: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """Groups of hosts to time, those of a round at once: each alone, then neighbours on a ring, even–odd and odd–even.

    So each node is in two pairs (of two nodes, in one). On a ring of odd length the last pair has a round of its own.
    """
    pairs: list[tuple[str, ...]] = list(zip(hosts, [*hosts[1:], hosts[0]], strict=True))
    if len(hosts) == 2:
        pairs = pairs[:1]
    closed = pairs[:-1] if len(hosts) % 2 else pairs
    alone: list[tuple[str, ...]] = [(host,) for host in hosts]
    return [groups for groups in (alone, closed[::2], closed[1::2], pairs[len(closed) :]) if groups]


def slow_links(links: Sequence[Link], mib: float, cluster: ClusterSection) -> list[str]:
    """Return warnings that name each node that is slow inside, and each all of whose pairs are slow.

    A pair is slow if it is so by the cluster's figures and compared with the fastest pair. The pairs of a node that is slow
    inside say nothing about its network. A node between two slow ones cannot be told from them, so it is named as well.
    """
    alone, pairs = ([link for link in links if len(link.hosts) == size] for size in (1, 2))
    inside = {link.hosts[0]: link for link in _outliers(alone, mib, cluster)}
    pairs = [link for link in pairs if not inside.keys() & set(link.hosts)]
    bad = _outliers(pairs, mib, cluster)
    warnings = [
        f"inside {host} an all-reduce sends {_rate(link, mib):.1f} GB/s a rank, in the fastest node "
        f"{max(_rate(each, mib) for each in alone):.1f}: a GPU or its link is bad; take {host} out (sbatch --exclude={host})"
        for host, link in inside.items()
    ]
    for host in dict.fromkeys(host for link in bad for host in link.hosts):
        mine = [link for link in pairs if host in link.hosts]
        if all(link in bad for link in mine):
            rates = ", ".join(f"{_rate(link, mib):.1f}" for link in mine)
            warnings.append(
                f"{host} is slow with each of its neighbours ({rates} GB/s a rank; the fastest pair of nodes: "
                f"{max(_rate(each, mib) for each in pairs):.1f}): a network adapter or cable is bad; take {host} out "
                f"(sbatch --exclude={host})"
            )
    return warnings or ["no node is much slower than the others: look at the network they share, or at the cluster's figures"]


def _outliers(links: Sequence[Link], mib: float, cluster: ClusterSection) -> list[Link]:
    """Those of a kind that are slow by the cluster's figures and compared with the fastest."""
    timed = [link for link in links if link.ranks > 1]
    fastest = min((link.seconds for link in timed), default=0.0)
    return [
        link
        for link in timed
        if link.seconds > _SLOWER * fastest
        and is_slow(mib, link.seconds, {host: range(link.ranks // len(link.hosts)) for host in link.hosts}, cluster)
    ]


def _rate(link: Link, mib: float) -> float:
    return all_reduce_rate(mib, link.seconds, link.ranks)
