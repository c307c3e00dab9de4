"""Counts the words of a text."""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Final

from mesatee.errors import Malformed
from mesatee.table import Table

CASES: Final = ("fold", "keep")
BLOCK_BYTES: Final = 4 * 2**20
"""Of the text that is looked at together; a longer stretch without a break makes a longer one."""
WORD_CHARS: Final = 1024
"""Of one word. Text without spaces is no sequence of words, and is refused rather than shown as one."""
_BACK_CHARS: Final = 65_536
"""From the end of a block, within which a break between words is looked for."""
_APOSTROPHES: Final = ("'", "\u2019")
_MOST: Final = 2**31


def word_count(text: memoryview, *, case: str = "fold", least: int = 1, top: int | None = None) -> Table:
    """Count how often each word stands in a text: columns ``word`` and ``count``, the most frequent first.

    The text is UTF-8, with or without a byte order mark. It is brought into Unicode's normal form NFC, so that an
    accented letter counts the same however it was typed; with `case` ``fold`` capital and small letters are the
    same (Unicode's full case folding, then NFC again), with ``keep`` they differ. A word is a longest run of letters,
    marks and numbers (Unicode's categories L, M and N); an apostrophe between two of them belongs to it, as in
    ``don't``, and U+2019 is read as one. Scripts without spaces between words give whole runs; a word of more than
    1024 characters is refused.

    Words that stand fewer than `least` times are left out, then only the `top` most frequent are kept. Words of the
    same count stand in the order of their code points.

    Reveals to the output's receivers all words of the text that are kept and how often each stands there, not their
    order. A rare word may be a name: `least` leaves such out.
    """
    if case not in CASES:
        raise Malformed(f"case is one of {', '.join(CASES)}")
    if not 1 <= least < _MOST:
        raise Malformed("least is at least 1")
    if top is not None and not 1 <= top < _MOST:
        raise Malformed("top is at least 1, or left out for all words")
    found: Counter[str] = Counter()
    for block in _blocks(text):
        found.update(_words(block, case))
    kept = sorted(
        ((word, count) for word, count in found.items() if count >= least),
        key=lambda pair: (-pair[1], pair[0]),
    )[:top]
    return _table(kept)


def _table(kept: list[tuple[str, int]]) -> Table:
    import pyarrow as pa

    return Table(
        pa.table(
            {
                "word": pa.array([word for word, _ in kept], pa.string()),
                "count": pa.array([count for _, count in kept], pa.int64()),
            }
        )
    )


def _blocks(text: memoryview) -> Iterator[str]:
    """Pieces of the text that end between words, so that no word and no letter with its marks is cut."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = ""
    for start in range(0, len(text), BLOCK_BYTES):
        block = bytes(text[start : start + BLOCK_BYTES])
        last = start + BLOCK_BYTES >= len(text)
        pending = len(decoder.getstate()[0])
        try:
            more = decoder.decode(block, last)
        except UnicodeDecodeError as error:
            raise Malformed(
                f"the text is not UTF-8 (byte {start - pending + error.start}): convert it first"
            ) from None
        rest += more if start else more.removeprefix("\ufeff")
        if not last and (cut := _last_break(rest)):
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _last_break(text: str) -> int:
    """The position of the last character that belongs to no word, 0 if there is none near the end.

    Normalisation joins a letter or a sign with what follows it, never with such a character.
    """
    near = range(len(text) - 1, max(0, len(text) - _BACK_CHARS), -1)
    return next((at for at in near if text[at] not in _APOSTROPHES and not _in_words(text[at])), 0)


def _in_words(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN"


def _words(block: str, case: str) -> Iterator[str]:
    block = unicodedata.normalize("NFC", block)
    if case == "fold":
        block = unicodedata.normalize("NFC", block.casefold())
    # Texts are long and have few different characters: each is looked up once.
    table: dict[int, str] = {}
    for char in set(block):
        if char in _APOSTROPHES:
            table[ord(char)] = "'"
        elif not _in_words(char):
            table[ord(char)] = " "
    for run in block.translate(table).split(" "):
        # Python's own white space is none of these categories, so that only spaces are left.
        for word in _without_apostrophes(run) if "'" in run else (run,):
            if len(word) > WORD_CHARS:
                raise Malformed(f"a word has more than {WORD_CHARS} characters: is this text?")
            if word:
                yield word


def _without_apostrophes(run: str) -> list[str]:
    """Apostrophes stay between two other characters only; two in a row end a word."""
    return [word.strip("'") for word in run.split("''")]
