"""Trees of logs that were rolled back."""

from __future__ import annotations

from mesatee.protocol.merkle import Tree


def cut(tree: Tree, size: int) -> Tree:
    """The tree of the first `size` leaves."""
    found = Tree()
    found.extend([tree.leaves(0, size)])
    return found
