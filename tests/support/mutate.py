"""Hostile bytes: valid ones with a few places changed, for which a parser that refuses noise may fall."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
"""For property tests on a machine that others use too: few but varied examples, and no deadline."""

_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "swap", "number"]),
        st.integers(0, 2**20),
        st.integers(0, 2**20),
        st.binary(max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """`original` after one to four edits."""

    def apply(edits: list[tuple[str, int, int, bytes]]) -> bytes:
        data = bytearray(original)
        for kind, first, second, more in edits:
            size = len(data) or 1
            at, to = first % size, second % size
            low, high = min(at, to), max(at, to)
            match kind:
                case "flip" if data:
                    data[at] ^= 1 << (second % 8)
                case "cut":
                    del data[low:high]
                case "insert":
                    data[at:at] = more
                case "repeat":
                    data[high:high] = data[low:high][:4096]
                case "swap" if data:
                    data[at], data[to] = data[to], data[at]
                case "number":
                    digits = [index for index, byte in enumerate(data) if 0x30 <= byte <= 0x39]
                    if digits:
                        data[digits[first % len(digits)]] = 0x30 + second % 10
        return bytes(data)

    return _EDITS.map(apply)


def noise() -> st.SearchStrategy[bytes]:
    """Bytes of no format at all, and JSON-like crumbs."""
    crumbs = st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"1e999", b"\xff", b"\x00", b"\n", b"-"]
    )
    return st.one_of(st.binary(max_size=256), st.lists(crumbs, max_size=64).map(b"".join))
