from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.errors import Conflict, Denied, Malformed, NotFound
from mesatee.party.http import visible
from mesatee.party.names import PREFIX_CHARS, check_name, find, find_owned
from mesatee.protocol import wire

THINGS = [
    ("people", "aabbccdd" + "0" * 56),
    ("people2", "aabbccff" + "0" * 56),
    ("x", "ab" * 32),
    ("x", "cd" * 32),
]


def lookup(wanted: str) -> tuple[str, str]:
    return find(THINGS, wanted, "thing", lambda item: item[1], lambda item: item[0])


def test_names_digests_and_prefixes() -> None:
    assert lookup("people") == THINGS[0]
    assert lookup(THINGS[1][1]) == THINGS[1]
    assert lookup("aabbccff") == THINGS[1]
    assert lookup("ab" * 3) == THINGS[2]


def test_ambiguous_ones_are_listed() -> None:
    with pytest.raises(Conflict) as caught:
        lookup("aabbcc")
    assert "people (aabbccdd0000)" in caught.value.message
    assert "people2 (aabbccff0000)" in caught.value.message
    with pytest.raises(Conflict):
        lookup("x")


def test_short_prefixes_do_not_count() -> None:
    with pytest.raises(NotFound):
        lookup("abab"[: PREFIX_CHARS - 1])
    with pytest.raises(NotFound) as caught:
        lookup("nobody")
    assert "people" in caught.value.hint


def test_a_name_that_looks_like_a_prefix_counts_first() -> None:
    things = [("abcdef", "11" * 32), ("other", "abcdef" + "0" * 58)]
    assert find(things, "abcdef", "thing", lambda item: item[1], lambda item: item[0]) == things[0]


def dataset(owner: str, name: str, digest: str) -> wire.DatasetView:
    return wire.DatasetView.model_construct(
        owner=owner, owner_name=f"{owner[0]}-name", name=name, digest=digest
    )


SHARED = [dataset("a" * 64, "people", "11" * 32), dataset("b" * 64, "people", "22" * 32)]


def test_a_name_of_two_owners_is_told_apart_by_them() -> None:
    with pytest.raises(Conflict) as caught:
        find_owned(SHARED, "people", "dataset")
    assert "a-name/people (111111111111), b-name/people (222222222222)" in caught.value.message
    assert "OWNER/NAME" in caught.value.hint
    assert find_owned(SHARED, "b-name/people", "dataset") is SHARED[1]
    assert find_owned(SHARED, "b" * 64 + "/people", "dataset") is SHARED[1]


def test_where_only_ones_own_can_be_meant_it_is() -> None:
    assert find_owned(SHARED, "people", "dataset", only="b" * 64) is SHARED[1]
    with pytest.raises(Denied, match="a-name/people is not yours"):
        find_owned(SHARED, "a-name/people", "dataset", only="b" * 64)
    with pytest.raises(NotFound):
        find_owned(SHARED, "c-name/people", "dataset", only="b" * 64)


@given(st.text(max_size=70))
def test_a_name_never_is_a_path(text: str) -> None:
    try:
        name = check_name(text, "a thing")
    except Malformed:
        return
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert name.isprintable()
    assert name.isascii()


@given(st.text())
def test_shown_text_has_no_control_characters(text: str) -> None:
    shown = visible(text)
    assert all(char >= " " or char in "\t\n" for char in shown)
    assert "\x7f" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown
