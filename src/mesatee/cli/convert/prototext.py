"""Protocol buffers as text, as far as Caffe's nets use them: fields, messages, numbers, words and quoted text.

A message becomes a dictionary of lists, since any field may stand several times; who reads it says what it takes.

>>> parse("name: 'net' layer { top: \\"a\\" pad: 1 pad: 2 }")["layer"][0]["pad"]
[1, 2]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from ...errors import Malformed, TooLarge

TEXT_BYTES: Final = 4 << 20
"""A net as text, in bytes: the largest that people share have some 200,000."""
DEPTH: Final = 8
"""Messages in messages: Caffe's own have 4."""
NUMBERS: Final = 1 << 16
"""Fields of one net."""
STRING_CHARS: Final = 512

_TOKEN: Final = re.compile(
    r"(?P<space>[ \t\r\n]+|\#[^\n]*)"
    r"|(?P<mark>[{}:;,\[\]<>])"
    r"|(?P<text>\"[^\"\\\n]*\"|'[^'\\\n]*')"
    r"|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?(?![A-Za-z0-9_.]))"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
)


class Word(str):
    """A bare word: a truth value, or one of an enumeration."""

    __slots__ = ()


Value: TypeAlias = "int | float | str | Word | Message"
Message: TypeAlias = dict[str, list[Value]]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def parse(text: str) -> Message:
    """The message that a text is. Raises `Malformed` with the number of the line, or `TooLarge`."""
    if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
        raise TooLarge(f"the text of the net has over {TEXT_BYTES} bytes")
    return _Parser(text).message(0, None)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = self._read(text)
        self._now: _Token | None = next(self._tokens, None)
        self._left = NUMBERS

    @staticmethod
    def _read(text: str) -> Iterator[_Token]:
        at, line = 0, 1
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise Malformed(f"line {line} of the net is no protocol buffer's text")
            kind, said = str(found.lastgroup), found[0]
            if kind != "space":
                yield _Token(kind, said, line)
            line += said.count("\n")
            at = found.end()

    def _take(self) -> _Token:
        token = self._now
        if token is None:
            raise Malformed("the text of the net is cut off")
        self._now = next(self._tokens, None)
        return token

    def _at(self, mark: str) -> bool:
        return self._now is not None and self._now.kind == "mark" and self._now.text == mark

    def message(self, depth: int, end: str | None) -> Message:
        """Fields up to `end`, or to the end of the text."""
        if depth > DEPTH:
            raise TooLarge(f"the net has messages of more than {DEPTH} levels")
        found: Message = {}
        while True:
            if self._now is None:
                if end is None:
                    return found
                raise Malformed("the text of the net is cut off")
            if end is not None and self._at(end):
                self._take()
                return found
            name = self._take()
            if name.kind != "word":
                raise Malformed(f"line {name.line} of the net: a field's name is missing")
            for value in self._values(depth, name):
                self._left -= 1
                if self._left < 0:
                    raise TooLarge(f"the net has more than {NUMBERS} fields")
                found.setdefault(name.text, []).append(value)
            if self._at(";") or self._at(","):
                self._take()

    def _values(self, depth: int, name: _Token) -> Iterator[Value]:
        colon = self._at(":")
        if colon:
            self._take()
        if self._at("["):
            self._take()
            while not self._at("]"):
                yield self._value(depth, name, colon)
                if self._at(","):
                    self._take()
            self._take()
            return
        yield self._value(depth, name, colon)

    def _value(self, depth: int, name: _Token, colon: bool) -> Value:
        for first, last in ("{}", "<>"):
            if self._at(first):
                self._take()
                return self.message(depth + 1, last)
        token = self._take()
        if not colon:
            raise Malformed(f"line {name.line} of the net: {name.text} has no value")
        match token.kind:
            case "text":
                if len(token.text) > STRING_CHARS:
                    raise TooLarge(f"line {token.line} of the net: a text has over {STRING_CHARS} characters")
                return token.text[1:-1]
            case "word":
                return Word(token.text)
            case "number":
                if re.fullmatch(r"[+-]?\d{1,18}", token.text):
                    return int(token.text)
                return float(token.text.rstrip("fF"))
        raise Malformed(f"line {token.line} of the net: {name.text} has no value")


__all__ = ["DEPTH", "NUMBERS", "STRING_CHARS", "TEXT_BYTES", "Message", "Value", "Word", "parse"]
