"""Which of these passwords stand on a list of leaked ones?"""

from __future__ import annotations

import binascii
import hashlib
import sys
from typing import Any, Final

from mesatee._core import KeyRows, oblivious_match
from mesatee.enclave.functions._threads import useful
from mesatee.errors import Malformed
from mesatee.table import Table

FORMS: Final = ("plain", "sha1", "ntlm")
LEAKAGES: Final = ("oblivious", "access-pattern")
COUNT: Final = 2**32 - 1
"""How often a password stands on a list, at most: more than any list has lines."""
_DIGEST_BYTES: Final = {"sha1": 20, "ntlm": 16}
_WORD: Final = 8
_FIRST_BYTES: Final = 4096
"""Of a list, in which its first line stands."""


def password_check(
    passwords: Table,
    leaked: memoryview,
    *,
    column: str = "password",
    id: str | None = None,
    given: str = "plain",
    listed: str = "sha1",
    counts: bool = True,
    leakage: str = "oblivious",
) -> Table:
    """Look up each password in a list of leaked ones: columns ``leaked`` and ``times``, a row for each password.

    `column` of `passwords` is text, in the form that `given` says: ``plain`` (compared by its bytes in UTF-8, spaces
    and case included), or hex digits of ``sha1`` (of those bytes) or ``ntlm``, in capital or small letters. `leaked`
    is a text file in the form that `listed` says: ``sha1`` or ``ntlm`` with lines ``HASH:COUNT``, as Have I Been
    Pwned gives them, or ``HASH`` alone in all lines, which counts 1; or ``plain``, a password a line. Lines end with
    LF or CRLF, in any order; empty ones do not count; what stands there twice is added up, and at most 2**32 - 1 is
    one count. Forms that can be compared are any two of ``plain`` and ``sha1``, and ``ntlm`` with itself.

    Rows come out in the order of `passwords`, named by the column `id`, or by their number in ``row``, from 0.
    ``leaked`` is false and ``times`` 0 for what is not listed or has the count 0; both are null where the password
    is. With ``counts=false`` there is no ``times``.

    `leakage` is what one may learn who watches the processor's memory: with ``oblivious`` the look-up shows the sizes
    of both inputs, which entries of the list repeat, and the number of binary digits of the largest count: the table
    is matched once for each of these digits. With ``access-pattern`` also which passwords are listed. Reading,
    hashing and writing are ordinary code, whose time depends on lengths.

    Reveals to the output's receivers of each row whether its password is listed and how often, and the column `id`:
    no password, no hash, and of the list nothing else. Who chooses the passwords can ask whether any one of them is
    listed; the number of runs that a task allows is the bound. A row that is leaked has a weak password: whoever
    has a public list can try these few. Reveals to the receivers of `diagnostics` the number of passwords, of nulls
    among them and of different entries of the list.
    """
    _check_arguments(passwords, column, id, given, listed, leakage)
    form = "ntlm" if "ntlm" in (given, listed) else "sha1"
    digests, present = _digests(passwords.to_arrow().column(column), column, given, form)
    entries, times = _entries(leaked, listed, form)
    print(
        f"password_check: {len(present)} passwords, {len(present) - sum(present)} of them null, "
        f"{len(times)} different entries listed",
        file=sys.stderr,
    )
    size = _DIGEST_BYTES[form]
    if leakage == "oblivious":
        found = _oblivious(_columns(digests, size), present, _columns(entries, size), times, counts)
    else:
        found = _looked_up(digests, entries, times, size)
    return _answer(passwords, id, found, present, counts)


def _check_arguments(
    passwords: Table, column: str, id: str | None, given: str, listed: str, leakage: str
) -> None:
    for name, value, known in (
        ("given", given, FORMS),
        ("listed", listed, FORMS),
        ("leakage", leakage, LEAKAGES),
    ):
        if value not in known:
            raise Malformed(f"{name} is one of {', '.join(known)}")
    if "ntlm" in (given, listed) and given != listed:
        raise Malformed("ntlm is compared with ntlm only: give the hashes of the passwords, or another list")
    for wanted in (column,) if id is None else (column, id):
        if (count := passwords.columns.count(wanted)) != 1:
            raise Malformed(f"the passwords have {count or 'no'} columns {wanted!r}")
    if id in (column, "leaked", "times"):
        raise Malformed("id is another column than the passwords, and not called leaked or times")


def _digests(values: Any, column: str, given: str, form: str) -> tuple[bytes, bytes]:
    """The digests of all passwords one behind the other, zeros for null; and a byte for each, 1 where there is one."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return bytes(_DIGEST_BYTES[form] * len(values)), bytes(len(values))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise Malformed(
            f"the column {column!r} is {kind}: passwords are text",
            hint="a CSV file with digits alone is read as numbers; give Parquet or Arrow with a column of text",
        )
    size, found, present = _DIGEST_BYTES[form], bytearray(), bytearray()
    for row, value in enumerate(values.cast(pa.large_string()).to_pylist()):
        present.append(value is not None)
        if value is None:
            found += bytes(size)
        elif given == "plain":
            found += _sha1(value.encode())
        else:
            found += _unhexed(value.encode(), size, f"the password of row {row}", form)
    return bytes(found), bytes(present)


def _sha1(password: bytes) -> bytes:
    # No signature or key rests on it: lists of leaked passwords are published in this form.
    return hashlib.sha1(password, usedforsecurity=False).digest()


def _unhexed(value: bytes, size: int, what: str, form: str) -> bytes:
    try:
        found = binascii.unhexlify(value)
    except ValueError:
        found = b""
    if len(found) != size:
        raise Malformed(f"{what} is not {2 * size} hex digits, as {form} has")
    return found


def _entries(leaked: memoryview, listed: str, form: str) -> tuple[bytes, Any]:
    """The different digests that are listed, one behind the other, and how often each is."""
    import numpy as np
    import pyarrow as pa

    size = _DIGEST_BYTES[form]
    if listed == "plain":
        lines = [line.removesuffix(b"\r") for line in bytes(leaked).split(b"\n")]
        digests = b"".join(_sha1(line) for line in lines if line)
        counts = np.ones(len(digests) // size, np.int64)
    else:
        digests, counts = _hash_lines(leaked, size, form)
    hashes = pa.Array.from_buffers(pa.binary(size), len(counts), [None, pa.py_buffer(digests)])
    table = pa.table({"hash": hashes, "count": pa.array(counts)})
    summed = table.group_by("hash", use_threads=False).aggregate([("count", "sum")])
    times = np.minimum(summed.column("count_sum").to_numpy(), COUNT)
    return b"".join(summed.column("hash").to_pylist()), times


def _hash_lines(leaked: memoryview, size: int, form: str) -> tuple[bytes, Any]:
    """Digests and counts of lines ``HASH:COUNT`` or ``HASH``."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    first = next((line for line in bytes(leaked[:_FIRST_BYTES]).split(b"\n") if line.strip()), b"")
    if not first and not bytes(leaked).strip():
        return b"", np.zeros(0, np.int64)
    counted = b":" in first
    try:
        table = csv.read_csv(
            pa.BufferReader(pa.py_buffer(leaked)),
            csv.ReadOptions(use_threads=False, column_names=["hash", "count"] if counted else ["hash"]),
            csv.ParseOptions(delimiter=":", quote_char=False),
            csv.ConvertOptions(
                column_types={"hash": pa.binary(), "count": pa.int64()},
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowException:
        # Arrow's own message shows the line.
        shape = "HASH:COUNT" if counted else "HASH"
        raise Malformed(f"leaked has lines that are not {shape}, as its first line is") from None
    lengths = pc.binary_length(table.column("hash"))
    wrong = pc.index(pc.not_equal(lengths, 2 * size), True).as_py()
    if wrong >= 0:
        raise Malformed(f"entry {wrong} of leaked is not {2 * size} hex digits, as {form} has")
    hashes = table.column("hash").combine_chunks()
    text = b"".join(hashes.to_pylist())
    try:
        digests = binascii.unhexlify(text)
    except ValueError:
        raise Malformed(f"leaked has lines without {2 * size} hex digits, as {form} has") from None
    counts = table.column("count").to_numpy() if counted else np.ones(table.num_rows, np.int64)
    if len(counts) and not (counts.min() >= 0 and counts.max() <= COUNT):
        raise Malformed(f"leaked has a count below 0 or over {COUNT}")
    return digests, counts


def _columns(digests: bytes, size: int) -> list[bytes]:
    """The digests as columns of words of 8 bytes, the last one filled up with zeros."""
    import numpy as np

    words = -(-size // _WORD)
    rows = np.zeros((len(digests) // size, words * _WORD), np.uint8)
    rows[:, :size] = np.frombuffer(digests, np.uint8).reshape(-1, size)
    return [np.ascontiguousarray(rows[:, _WORD * at : _WORD * (at + 1)]).tobytes() for at in range(words)]


def _oblivious(digests: list[bytes], present: bytes, entries: list[bytes], times: Any, counts: bool) -> Any:
    """How often each is listed, or 1 if only whether it is matters. What is matched depends on no value.

    1. One binary digit of the counts after the other: the entries of which it is 1 are valid, and all take part.
    2. What a row has in common with these is this digit of its count.
    """
    import numpy as np

    asked = KeyRows(digests, present)
    found = np.zeros(len(present), np.int64)
    rounds = [times > 0]
    if counts:
        rounds = [(times >> digit) & 1 for digit in range(max(1, int(times.max(initial=0)).bit_length()))]
    for digit, valid in enumerate(rounds):
        # 1.
        listed = KeyRows(entries, valid.astype(np.uint8).tobytes())
        marks, _, _, _, _ = oblivious_match([asked, listed], threads=useful())
        # 2.
        found |= np.frombuffer(marks[0], np.uint8).astype(np.int64) << digit
    return found


def _looked_up(digests: bytes, entries: bytes, times: Any, size: int) -> Any:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.binary(size)
    asked, listed = (
        pa.Array.from_buffers(kind, len(data) // size, [None, pa.py_buffer(data)])
        for data in (digests, entries)
    )
    places = pc.index_in(asked, value_set=listed).fill_null(-1).to_numpy()
    return np.where(places >= 0, np.append(times, 0)[places], 0)


def _answer(passwords: Table, id: str | None, found: Any, present: bytes, counts: bool) -> Table:
    import numpy as np
    import pyarrow as pa

    missing = np.frombuffer(present, np.uint8) == 0
    named = np.arange(len(present)) if id is None else passwords.to_arrow().column(id)
    columns = {id or "row": named, "leaked": pa.array(found > 0, mask=missing)}
    if counts:
        columns["times"] = pa.array(found, mask=missing)
    return Table(pa.table(columns))
