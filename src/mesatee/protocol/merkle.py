"""The Merkle tree of RFC 6962 (section 2.1), with tiles as in C2SP tlog-tiles.

`Tree` gives roots and proofs of any earlier size for O(log^2 n), and for one tile of leaves in each.

>>> tree = Tree()
>>> for entry in (b"a", b"b", b"c"):
...     _ = tree.append(leaf_hash(entry))
>>> verify_inclusion(leaf_hash(b"b"), 1, 3, tree.inclusion(1, 3), tree.root(3))
>>> verify_consistency(2, 3, tree.root(2), tree.root(3), tree.consistency(2, 3))
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from .._core import merkle_leaves, merkle_nodes
from ..errors import LogCorrupt, Malformed

HASH = 32
TILE_HEIGHT = 8
TILE = 1 << TILE_HEIGHT
"""Hashes in a full tile (tlog-tiles)."""
ROOTS_KEPT = 256
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962, section 2.1: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Sequence[bytes]) -> bytes:
    """The leaf hashes of many entries, one after the other."""
    return merkle_leaves(entries)


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962, section 2.1: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """An append-only tree in memory, a little over 32 bytes an entry.

    It keeps the leaves and the roots of full tiles. What lies between them is kept for the last tile, where it is
    asked for all the time, and made anew from a tile's leaves wherever else it is needed.
    """

    def __init__(self) -> None:
        # _levels[k] holds the hashes of the complete subtrees of 2^k leaves from number _first[k] on.
        self._levels: list[bytearray] = [bytearray()]
        self._first: list[int] = [0]
        # Those who are answered together ask for the same sizes again.
        self._roots: dict[int, bytes] = {}

    @property
    def size(self) -> int:
        """The number of leaves."""
        return len(self._levels[0]) // HASH

    def append(self, leaf: bytes) -> int:
        """Add a leaf's hash; returns its index."""
        index = self.size
        self._levels[0] += leaf
        level, count, node = 0, index + 1, leaf
        while count % 2 == 0:
            node = node_hash(self._node(level, count - 2), node)
            level, count = level + 1, count // 2
            self._level(level)
            self._levels[level] += node
        self._drop()
        return index

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add many leaves' hashes, also several in one piece, level by level: much faster than one after the other."""
        added = b"".join(leaves)
        if len(added) % HASH:
            raise Malformed(f"a hash has {HASH} bytes")
        self._levels[0] += added
        for level in range(64):
            self._level(level + 1)
            below, above = self._levels[level], self._levels[level + 1]
            done = self._first[level + 1] + len(above) // HASH
            pairs = bytes(below[(2 * done - self._first[level]) * HASH :])
            pairs = pairs[: len(pairs) // (2 * HASH) * 2 * HASH]
            if not pairs:
                break
            above += merkle_nodes(pairs)
        self._drop()

    def _level(self, level: int) -> None:
        if len(self._levels) == level:
            self._levels.append(bytearray())
            self._first.append(0)

    def _drop(self) -> None:
        """Of full tiles, forget what is between leaves and root; higher up it is next to nothing."""
        for level in range(1, min(TILE_HEIGHT, len(self._levels))):
            keep = (self.size // TILE * TILE) >> level
            if keep > self._first[level]:
                del self._levels[level][: (keep - self._first[level]) * HASH]
                self._first[level] = keep

    def leaves(self, start: int, end: int) -> bytes:
        """The leaf hashes from `start` to `end`, one after the other."""
        self._check(end)
        return bytes(self._levels[0][start * HASH : end * HASH])

    def root(self, size: int) -> bytes:
        """MTH(D[0:size])."""
        self._check(size)
        found = self._roots.get(size)
        if found is None:
            if len(self._roots) == ROOTS_KEPT:
                self._roots.clear()
            found = self._roots[size] = self._range(0, size) if size else EMPTY_ROOT
        return found

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """PATH(index, D[0:size]), RFC 6962 section 2.1.1."""
        self._check(size)
        if not 0 <= index < size:
            raise Malformed(f"entry {index} is not in a tree of {size}")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """PROOF(first, D[0:second]), RFC 6962 section 2.1.2."""
        self._check(second)
        if not 0 < first <= second:
            raise Malformed(f"no consistency proof from {first} to {second}")
        path: list[bytes] = []
        low, high, whole = 0, second, True
        while first != high:
            middle = low + _split(high - low)
            if first <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low, whole = middle, False
        if not whole:
            path.append(self._range(low, high))
        return path[::-1]

    def tile(self, level: int, index: int, width: int = TILE) -> bytes:
        """Tile `index` at tile level `level` (tlog-tiles): `width` hashes of 32 bytes."""
        if not 0 <= level < 8 or index < 0 or not 1 <= width <= TILE:
            raise Malformed("a tile has a level of 0 to 7 and a width of 1 to 256")
        height = TILE_HEIGHT * level
        hashes = self._levels[height] if height < len(self._levels) else bytearray()
        start = index * TILE * HASH
        data = bytes(hashes[start : start + width * HASH])
        if len(data) != width * HASH:
            raise Malformed(f"tile {level}/{index} does not have {width} hashes yet")
        return data

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise Malformed(f"the log has {self.size} entries, not {size}")

    def _range(self, low: int, high: int) -> bytes:
        count = high - low
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            return self._node(level, low >> level)
        middle = low + _split(count)
        return node_hash(self._range(low, middle), self._range(middle, high))

    def _node(self, level: int, index: int) -> bytes:
        """The hash over the leaves from `index` * 2^`level` on, 2^`level` of them."""
        at = (index - self._first[level]) * HASH
        if at >= 0:
            return bytes(self._levels[level][at : at + HASH])
        hashes = bytes(self._levels[0][(index << level) * HASH : ((index + 1) << level) * HASH])
        for _ in range(level):
            hashes = merkle_nodes(hashes)
        return hashes


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, section 2.1.3.2. Raises `LogCorrupt`."""
    if not 0 <= index < size:
        raise LogCorrupt("the inclusion proof is for no entry of this tree")
    node, last, result = index, size - 1, leaf
    for sibling in path:
        if last == 0 or len(sibling) != HASH:
            raise LogCorrupt("the inclusion proof is too long")
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or result != root:
        raise LogCorrupt("the inclusion proof does not lead to the checkpoint's root")


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]
) -> None:
    """RFC 9162, section 2.1.4.2. Raises `LogCorrupt`."""
    if not 0 < first <= second:
        raise LogCorrupt("the consistency proof is for other sizes")
    if first == second:
        if path or first_root != second_root:
            raise LogCorrupt("two roots for one size")
        return
    proof = list(path)
    if any(len(item) != HASH for item in proof):
        raise LogCorrupt("a hash has 32 bytes")
    if first & (first - 1) == 0:
        proof.insert(0, first_root)
    if not proof:
        raise LogCorrupt("the consistency proof is empty")
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = proof[0]
    for sibling in proof[1:]:
        if last == 0:
            raise LogCorrupt("the consistency proof is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or old != first_root or new != second_root:
        raise LogCorrupt("the log does not extend the earlier checkpoint")


__all__ = [
    "EMPTY_ROOT",
    "HASH",
    "TILE",
    "Tree",
    "leaf_hash",
    "leaf_hashes",
    "node_hash",
    "verify_consistency",
    "verify_inclusion",
]
