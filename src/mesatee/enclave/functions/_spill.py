"""Keys that are matched in a scratch file, because they do not fit into memory; inputs come piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mesatee._core import KeySpill
from mesatee.batches import Batches
from mesatee.enclave.functions._keys import Keys, from_rows, keys_of, prepare, to_rows, widest
from mesatee.enclave.functions._scratch import scratch
from mesatee.enclave.functions._threads import useful
from mesatee.errors import Malformed
from mesatee.table import Table

HOLD_SHARE: Final = 4
"""Of the memory that a run may use, one part in so many is held by the matching."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of one input, those with nulls, and its distinct keys."""

    rows: int
    nulls: int
    distinct: int


class Spilled:
    """Inputs that were matched: how many keys there are, and the wanted ones, piece by piece."""

    def __init__(
        self,
        inputs: dict[str, Batches],
        wanted: dict[str, list[str]],
        normalise: str | list[str],
        *,
        only_first: bool,
        listed: bool,
    ) -> None:
        """Match them. Raises `Malformed` for what `prepare` refuses, for wide keys, and without a scratch file."""
        given = scratch()
        if given is None:
            raise Malformed("the inputs come piece by piece, and there is no scratch file for them")
        shapes = {name: Table(values.schema.empty_table()) for name, values in inputs.items()}
        prepared = prepare(shapes, wanted, normalise)
        self._kinds = [values.type for values in next(iter(prepared.values())).arrays]
        self._wanted, self._normalise = wanted, normalise
        self._widths = self._widest(inputs)
        like = to_rows(next(iter(prepared.values())), self._widths)
        self._spill = KeySpill(
            given.fd,
            like,
            hold_bytes=given.memory_bytes // HOLD_SHARE,
            file_bytes=given.file_bytes,
            threads=useful(),
        )
        rows, nulls = dict.fromkeys(inputs, 0), dict.fromkeys(inputs, 0)
        for party, (name, values) in enumerate(inputs.items()):
            for keys in self._pieces(name, values):
                self._spill.add(party, to_rows(keys, self._widths))
                rows[name] += keys.rows
                nulls[name] += keys.nulls
        distinct, self.wanted, self.union = self._spill.combine(
            len(inputs), only_first=only_first, listed=listed
        )
        self.sizes = {
            name: Sizes(rows[name], nulls[name], count) for name, count in zip(inputs, distinct, strict=True)
        }

    def _pieces(self, name: str, values: Batches) -> Iterator[Keys]:
        for piece in values:
            yield keys_of(name, piece, self._wanted[name], self._kinds, self._normalise)

    def _widest(self, inputs: dict[str, Batches]) -> list[int]:
        """As `widest`. Text has to be read for it once more; numbers have not."""
        found = widest(
            [
                keys_of(
                    name, Table(values.schema.empty_table()), self._wanted[name], self._kinds, self._normalise
                )
                for name, values in inputs.items()
            ]
        )
        if any(found):
            for name, values in inputs.items():
                for keys in self._pieces(name, values):
                    found = list(map(max, found, widest([keys])))
        return found

    def keys(self, columns: list[str]) -> Batches:
        """The wanted keys in ascending order; can be gone through once."""

        def pieces() -> Iterator[Any]:
            yield empty
            while (rows := self._spill.take()) is not None:
                yield from_rows(rows, self._kinds, columns).to_arrow()

        import pyarrow as pa

        schema = pa.schema(list(zip(columns, self._kinds, strict=True)))
        empty = schema.empty_table()
        return Batches(pieces, schema)


__all__ = ["Sizes", "Spilled"]
