"""Whether the nodes of a graph can be run one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mesatee.errors import Malformed


def check_order(needs: Sequence[set[str]], gives: Sequence[Sequence[str]], what: str) -> None:
    """Raises `Malformed` if nodes wait for each other in a circle.

    `needs` and `gives` are the names that each node uses and gives; what no node gives is there already. (Kahn,
    "Topological sorting of large networks", 1962.)
    """
    giver = {name: number for number, names in enumerate(gives) for name in names}
    if all(giver.get(name, -1) < number for number, names in enumerate(needs) for name in names):
        # As exporters write it, and as the format asks for.
        return
    waits = [0] * len(needs)
    users: list[list[int]] = [[] for _ in needs]
    for number, names in enumerate(needs):
        for before in {giver[name] for name in names if name in giver}:
            waits[number] += 1
            users[before].append(number)
    ready = deque(number for number, count in enumerate(waits) if not count)
    done = 0
    while ready:
        done += 1
        for number in users[ready.popleft()]:
            waits[number] -= 1
            if not waits[number]:
                ready.append(number)
    if done < len(needs):
        raise Malformed(f"{what} has a cycle: {len(needs) - done} nodes wait for each other")


__all__ = ["check_order"]
