"""The Merkle tree, against the vectors of RFC 6962 implementations and against pymerkle."""

from __future__ import annotations

import functools
import hashlib

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutate import QUICK

from mesatee.errors import LogCorrupt, Malformed
from mesatee.protocol import merkle
from mesatee.protocol.merkle import Tree, leaf_hash, verify_consistency, verify_inclusion

# Entries and roots of the reference tests of Certificate Transparency (RFC 6962), for sizes 1 to 8.
ENTRIES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree_of(count: int) -> Tree:
    tree = Tree()
    for index in range(count):
        assert tree.append(leaf_hash(b"entry %d" % index)) == index
    return tree


@functools.cache
def big() -> Tree:
    return tree_of(700)


@functools.cache
def oracle(count: int) -> pymerkle.InmemoryTree:
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for index in range(count):
        tree.append_entry(b"entry %d" % index)
    return tree


def test_the_vectors_of_rfc_6962() -> None:
    tree = Tree()
    assert tree.root(0) == merkle.EMPTY_ROOT == hashlib.sha256(b"").digest()
    for entry in ENTRIES:
        tree.append(leaf_hash(entry))
    assert [tree.root(size + 1).hex() for size in range(len(ROOTS))] == ROOTS
    assert [item.hex() for item in tree.inclusion(5, 8)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [item.hex() for item in tree.consistency(6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 63, 64, 65, 127, 255, 256, 257, 511])
def test_roots_and_inclusion_paths_are_pymerkles(size: int) -> None:
    tree, other = big(), oracle(600)
    assert tree.root(size) == other.get_root(size)
    for index in {0, size // 2, size - 1}:
        path = other.prove_inclusion(index + 1, size).serialize()["path"]
        assert [item.hex() for item in tree.inclusion(index, size)] == path[1:]


@QUICK
@given(st.integers(1, 600), st.integers(1, 600))
def test_consistency_with_pymerkle(first: int, second: int) -> None:
    first, second = sorted((first, second))
    tree, other = big(), oracle(600)
    pymerkle.verify_consistency(
        other.get_root(first), other.get_root(second), other.prove_consistency(first, second)
    )
    verify_consistency(
        first, second, other.get_root(first), other.get_root(second), tree.consistency(first, second)
    )


@QUICK
@given(st.integers(1, 700), st.data())
def test_every_entry_is_proven_and_nothing_else(size: int, data: st.DataObject) -> None:
    tree = big()
    index = data.draw(st.integers(0, size - 1))
    leaf, root, path = leaf_hash(b"entry %d" % index), tree.root(size), tree.inclusion(index, size)
    verify_inclusion(leaf, index, size, path, root)
    refused = [
        (leaf_hash(b"other"), index, size, path, root),
        (leaf, index, size, path, hashlib.sha256(root).digest()),
        (leaf, index, size, [*path, bytes(32)], root),
        (leaf, -1, size, path, root),
        (leaf, size, size, path, root),
        (leaf, index, 0, path, root),
    ]
    if path:
        place = data.draw(st.integers(0, len(path) - 1))
        refused += [
            (leaf, index, size, path[:place] + path[place + 1 :], root),
            (leaf, index, size, [*path[:place], flipped(path[place], data), *path[place + 1 :]], root),
            (leaf, index, size, [*path[:place], path[place][:31], *path[place + 1 :]], root),
            (leaf, index, size, [*path[:place], path[place], *path[place:]], root),
        ]
        other = data.draw(st.integers(0, size - 1).filter(lambda found: found != index))
        refused.append((leaf, other, size, path, root))
    if len(set(path)) > 1:
        refused.append((leaf, index, size, path[::-1], root))
    for arguments in refused:
        with pytest.raises(LogCorrupt):
            verify_inclusion(*arguments)


def flipped(value: bytes, data: st.DataObject) -> bytes:
    bit = data.draw(st.integers(0, 255))
    altered = bytearray(value)
    altered[bit // 8] ^= 1 << (bit % 8)
    return bytes(altered)


@pytest.mark.parametrize(("index", "size", "path"), [(0, 2, 0), (0, 8, 1), (6, 8, 2), (4, 7, 1)])
def test_a_proof_that_stops_at_a_subtree_is_refused(index: int, size: int, path: int) -> None:
    """The shortened path does lead to the given root, which is that of a part of the tree."""
    tree = big()
    short = tree.inclusion(index, size)[:path]
    part = leaf_hash(b"entry %d" % index)
    for level, sibling in enumerate(short):
        left = index >> level & 1
        part = merkle.node_hash(sibling, part) if left else merkle.node_hash(part, sibling)
    with pytest.raises(LogCorrupt):
        verify_inclusion(leaf_hash(b"entry %d" % index), index, size, short, part)


@QUICK
@given(st.integers(1, 700), st.integers(1, 700), st.data())
def test_every_prefix_is_proven_and_nothing_else(first: int, second: int, data: st.DataObject) -> None:
    first, second = sorted((first, second))
    tree = big()
    old, new, path = tree.root(first), tree.root(second), tree.consistency(first, second)
    verify_consistency(first, second, old, new, path)
    bad = hashlib.sha256(b"bad").digest()
    refused = [
        (first, second, bad, new, path),
        (first, second, old, bad, path),
        (first, second, old, new, [*path, bytes(32)]),
        (0, second, old, new, path),
        (second + 1, second, old, new, path),
    ]
    if path:
        place = data.draw(st.integers(0, len(path) - 1))
        refused += [
            (first, second, old, new, path[:place] + path[place + 1 :]),
            (first, second, old, new, [*path[:place], flipped(path[place], data), *path[place + 1 :]]),
            (first, second, old, new, [*path[:place], path[place] + b"x", *path[place + 1 :]]),
        ]
    if first != second:
        refused += [(second, first, new, old, path), (first, first, old, old, path)]
    for arguments in refused:
        with pytest.raises(LogCorrupt):
            verify_consistency(*arguments)


def plain_root(leaves: bytes) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    count = len(leaves) // merkle.HASH
    if count < 2:
        return leaves or merkle.EMPTY_ROOT
    middle = (1 << ((count - 1).bit_length() - 1)) * merkle.HASH
    return merkle.node_hash(plain_root(leaves[:middle]), plain_root(leaves[middle:]))


@QUICK
@given(st.lists(st.integers(0, 600), min_size=1, max_size=5), st.data())
def test_hashes_that_are_made_anew_are_those_that_were_forgotten(
    steps: list[int], data: st.DataObject
) -> None:
    tree = Tree()
    for number, step in enumerate(steps):
        leaves = [leaf_hash(b"%d %d" % (number, at)) for at in range(step)]
        if data.draw(st.booleans()):
            tree.extend(leaves)
        else:
            for leaf in leaves:
                tree.append(leaf)
    size = tree.size
    for at in data.draw(st.lists(st.integers(0, size), max_size=4)):
        assert tree.root(at) == plain_root(tree.leaves(0, at))
        if at < size:
            verify_inclusion(
                tree.leaves(at, at + 1), at, size, tree.inclusion(at, size), plain_root(tree.leaves(0, size))
            )
        if at:
            verify_consistency(
                at, size, plain_root(tree.leaves(0, at)), tree.root(size), tree.consistency(at, size)
            )


def test_a_tree_keeps_little_more_than_its_leaves() -> None:
    tree = Tree()
    tree.extend([bytes(100_000 * merkle.HASH)])
    assert sum(map(len, tree._levels)) < 1.01 * 100_000 * merkle.HASH


def test_what_is_not_in_the_tree_is_refused() -> None:
    tree = tree_of(5)
    for ask in (
        lambda: tree.root(6),
        lambda: tree.root(-1),
        lambda: tree.inclusion(5, 5),
        lambda: tree.inclusion(-1, 5),
        lambda: tree.inclusion(0, 6),
        lambda: tree.consistency(0, 5),
        lambda: tree.consistency(4, 3),
        lambda: tree.consistency(1, 6),
    ):
        with pytest.raises(Malformed):
            ask()


def test_tiles_hold_the_hashes_of_their_level() -> None:
    tree = big()
    assert tree.tile(0, 0)[:32] == leaf_hash(b"entry 0")
    assert len(tree.tile(0, 1)) == 256 * 32
    assert tree.tile(1, 0, 2) == tree.root(256) + tree._range(256, 512)
    assert tree.tile(0, 2, 188)[-32:] == leaf_hash(b"entry 699")
    for level, index, width in (
        (0, 2, 189),
        (0, 2, 256),
        (1, 0, 3),
        (2, 0, 1),
        (8, 0, 1),
        (-1, 0, 1),
        (0, -1, 1),
        (0, 0, 0),
        (0, 0, 257),
    ):
        with pytest.raises(Malformed):
            tree.tile(level, index, width)


@QUICK
@given(st.lists(st.integers(0, 70), max_size=8))
def test_many_leaves_at_once_make_the_same_tree(counts: list[int]) -> None:
    one, many, number = merkle.Tree(), merkle.Tree(), 0
    for count in counts:
        leaves = [merkle.leaf_hash(str(number + at).encode()) for at in range(count)]
        for leaf in leaves:
            one.append(leaf)
        pieces = merkle.leaf_hashes([str(number + at).encode() for at in range(count)])
        assert pieces == b"".join(leaves)
        many.extend(leaves if count % 2 else [pieces])
        number += count
    assert many.size == one.size == number
    assert [many.root(size) for size in range(number + 1)] == [one.root(size) for size in range(number + 1)]
    one.append(bytes(32))
    many.append(bytes(32))
    assert many.root(number + 1) == one.root(number + 1)


def test_what_is_no_hash_does_not_enter_the_tree() -> None:
    tree = merkle.Tree()
    tree.extend([bytes(32)])
    with pytest.raises(Malformed):
        tree.extend([bytes(32), bytes(31)])
    assert tree.size == 1
