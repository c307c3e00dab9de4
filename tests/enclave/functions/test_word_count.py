"""Words against a slow definition of them, letter by letter."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions import word_count as module
from mesatee.enclave.functions.word_count import WORD_CHARS, word_count
from mesatee.errors import Malformed

CHARS = st.sampled_from(
    [*"aAbß1'’ \n-_.", "é", "É", "e", "\u0301", "İ", "ﬁ", "漢", "\u0928", "\u093e", "\u00a0", "\0"]
)


def count(text, **args):
    found = word_count(memoryview(text if isinstance(text, bytes) else text.encode()), **args).to_dict()
    return dict(zip(found["word"], found["count"], strict=True))


def slow(text, case):
    text = unicodedata.normalize("NFC", text)
    if case == "fold":
        text = unicodedata.normalize("NFC", text.casefold())
    words, word = Counter(), ""

    def inside(at):
        return 0 <= at < len(text) and unicodedata.category(text[at])[0] in "LMN"

    for at, char in enumerate(text + " "):
        if at < len(text) and (inside(at) or (char in "'’" and inside(at - 1) and inside(at + 1))):
            word += "'" if char == "’" else char
        elif word:
            words[word] += 1
            word = ""
    return dict(words)


@settings(deadline=None, max_examples=100)
@given(st.text(CHARS, max_size=60) | st.text(max_size=40), st.sampled_from(module.CASES))
def test_words_are_what_the_definition_says(text, case):
    text = text.replace("\ufeff", "")
    assert count(text, case=case) == slow(text, case)


@settings(deadline=None, max_examples=60)
@given(st.text(CHARS, max_size=60), st.integers(1, 7))
def test_a_text_in_blocks_has_the_same_words(text, size):
    before = module.BLOCK_BYTES
    module.BLOCK_BYTES = size
    try:
        assert count(text) == slow(text, "fold")
    finally:
        module.BLOCK_BYTES = before


def test_a_block_without_a_break_near_its_end(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 5)
    monkeypatch.setattr(module, "_BACK_CHARS", 2)
    text = "a bcdefgh don't =\u0338x e\u0301e, \u1100\u1161."
    assert count(text) == slow(text, "fold")


def test_the_most_frequent_come_first_and_ties_by_code_point():
    found = word_count(memoryview(b"b a c c B b a d"))
    assert found.to_dict() == {"word": ["b", "a", "c", "d"], "count": [3, 2, 2, 1]}
    assert count(b"b a c c B b a d", least=2) == {"b": 3, "a": 2, "c": 2}
    assert list(count(b"b a c c B b a d", top=1)) == ["b"]
    assert list(count(b"b a c c B b a d", top=9)) == ["b", "a", "c", "d"]


def test_a_byte_order_mark_is_no_word_and_nothing_has_none():
    assert count("\ufeffone".encode()) == {"one": 1}
    assert word_count(memoryview(b"")).to_dict() == {"word": [], "count": []}


@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        (b"fine \xff", {}, "byte 5"),
        (b"cut \xc3", {}, "byte 4"),
        (b"a" * (WORD_CHARS + 1), {}, "1024 characters"),
        (b"a", {"case": "upper"}, "case is one of"),
        (b"a", {"least": 0}, "least"),
        (b"a", {"top": 0}, "top"),
    ],
)
def test_what_is_refused(text, args, said):
    with pytest.raises(Malformed, match=said):
        count(text, **args)


def test_the_place_of_a_wrong_byte_is_that_of_the_whole_text(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 3)
    with pytest.raises(Malformed, match="byte 5"):
        count(b"ab\xc3\xa9x\xc3x")
    assert count(b"a" * WORD_CHARS) == {"a" * WORD_CHARS: 1}
