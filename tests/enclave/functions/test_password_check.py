"""Look-ups in lists of leaked passwords, by both engines, against a Python dict."""

from __future__ import annotations

import hashlib
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee._core import oblivious_match
from mesatee.enclave.functions import password_check as module
from mesatee.enclave.functions.password_check import COUNT, LEAKAGES, password_check
from mesatee.errors import Malformed
from mesatee.table import Table

WORD = st.text(st.sampled_from('ab é:漢,"'), min_size=1, max_size=3)


def sha1(word):
    return hashlib.sha1(word.encode()).hexdigest()


def passwords(*values, **more):
    return Table(pa.table({"password": pa.array(values, pa.string()), **more}))


def check(table, leaked, **args):
    return password_check(table, memoryview(leaked.encode() if isinstance(leaked, str) else leaked), **args)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.none() | WORD, max_size=8),
    st.lists(st.tuples(WORD, st.integers(0, 9) | st.sampled_from([2**20, COUNT])), max_size=8),
    st.sampled_from(["plain", "sha1"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.booleans(),
)
def test_hashes_with_counts(words, listed, form, capital, end, counts):
    expected = Counter()
    for word, count in listed:
        expected[word] = min(COUNT, expected[word] + count)
    lines = [f"{sha1(word).upper() if capital else sha1(word)}:{count}" for word, count in listed]
    given_ = passwords(*(word if form == "plain" or word is None else sha1(word) for word in words))
    for leakage in LEAKAGES:
        found = check(given_, end.join(lines) + end, given=form, counts=counts, leakage=leakage).to_dict()
        assert found["row"] == list(range(len(words)))
        assert found["leaked"] == [None if word is None else expected[word] > 0 for word in words]
        if counts:
            assert found["times"] == [None if word is None else expected[word] for word in words]
        assert list(found) == ["row", "leaked", "times"][: 2 + counts]


@settings(deadline=None, max_examples=40)
@given(st.lists(WORD, max_size=8), st.lists(WORD, max_size=12), st.sampled_from(["plain", "sha1"]))
def test_a_plain_list_counts_its_lines(words, listed, form):
    text = "\n".join(listed)
    expected = Counter(line for line in text.split("\n") if line)
    given_ = passwords(*(word if form == "plain" else sha1(word) for word in words))
    for leakage in LEAKAGES:
        found = check(given_, text, given=form, listed="plain", leakage=leakage).to_dict()
        assert found["times"] == [expected[word] for word in words]


def test_hashes_alone_count_once_each():
    text = "\n".join([sha1("a"), sha1("b"), sha1("a")])
    assert check(passwords("a", "b", "c"), text).to_dict()["times"] == [2, 1, 0]
    assert check(passwords("a"), "\r\n\n" + LIST).to_dict()["times"] == [3]


def test_ntlm():
    """The hash of `password`, as every list has it."""
    text = "8846F7EAEE8FB117AD06BDD830B7586C:9\r\n"
    given_ = passwords("8846f7eaee8fb117ad06bdd830b7586c", "0" * 32)
    for leakage in LEAKAGES:
        found = check(given_, text, given="ntlm", listed="ntlm", leakage=leakage).to_dict()
        assert (found["leaked"], found["times"]) == ([True, False], [9, 0])


def test_rows_are_named_by_a_column_and_no_password_comes_out():
    given_ = passwords("hunter2", "letmein", user=pa.array(["u2", "u1"]), more=pa.array(["secret", "secret"]))
    found = check(given_, "hunter2\n", listed="plain", id="user")
    assert found.to_dict() == {"user": ["u2", "u1"], "leaked": [True, False], "times": [1, 0]}


def test_empty_inputs_and_a_column_without_a_value():
    for leakage in LEAKAGES:
        assert check(passwords(), "a\n", listed="plain", leakage=leakage).num_rows == 0
        for text in ("", "\n\n"):
            for listed in ("plain", "sha1"):
                found = check(passwords("a"), text, listed=listed, leakage=leakage).to_dict()
                assert (found["leaked"], found["times"]) == ([False], [0])
        nothing = Table(pa.table({"password": pa.array([None, None])}))
        assert check(nothing, "a\n", listed="plain", leakage=leakage).to_dict()["times"] == [None, None]


def test_what_is_matched_depends_on_sizes_and_the_largest_count_alone(monkeypatch):
    asked = []

    def watched(rows, **args):
        asked[-1].append([len(party) for party in rows])
        return oblivious_match(rows, **args)

    monkeypatch.setattr(module, "oblivious_match", watched)
    for words, counts in ((("a", "b"), (5, 7)), (("a", "a"), (7, 0)), (("x", "y"), (1, 4))):
        asked.append([])
        text = "\n".join(f"{sha1(word)}:{count}" for word, count in zip("ab", counts, strict=True))
        check(passwords(*words), text)
    assert asked[0] == asked[1] == asked[2] == [[2, 2]] * 3


LIST = f"{sha1('a')}:3\n"


@pytest.mark.parametrize(
    ("table", "leaked", "args", "said"),
    [
        (passwords("a"), LIST, {"column": "no"}, "no columns 'no'"),
        (passwords("a"), LIST, {"id": "no"}, "no columns 'no'"),
        (passwords("a"), LIST, {"id": "password"}, "another column"),
        (passwords("a"), LIST, {"given": "md5"}, "given is one of"),
        (passwords("a"), LIST, {"listed": "md5"}, "listed is one of"),
        (passwords("a"), LIST, {"leakage": "none"}, "leakage is one of"),
        (passwords("a"), LIST, {"listed": "ntlm"}, "ntlm is compared with ntlm"),
        (passwords("a"), LIST, {"given": "sha1"}, "password of row 0 is not 40 hex"),
        (passwords("z" * 40), LIST, {"given": "sha1"}, "password of row 0 is not 40 hex"),
        (passwords(None, "ab"), LIST, {"given": "sha1"}, "password of row 1"),
        (Table.from_dict({"password": [123456]}), LIST, {}, "int64: passwords are text"),
        (passwords("a"), LIST + sha1("b") + "\n", {}, "not HASH:COUNT"),
        (passwords("a"), sha1("b") + "\n" + LIST, {}, "not HASH, as"),
        (passwords("a"), LIST + "abc:3\n", {}, "entry 1 of leaked"),
        (passwords("a"), "g" * 40 + ":3\n", {}, "without 40 hex digits"),
        (passwords("a"), " " * 40 + ":3\n", {}, "without 40 hex digits"),
        (passwords("a"), sha1("b") + ":-1\n", {}, "below 0"),
        (passwords("a"), f"{sha1('b')}:{COUNT + 1}\n", {}, "over"),
        (passwords("a"), sha1("b") + ":x\n", {}, "not HASH:COUNT"),
        (passwords("a"), sha1("b") + ":\n", {}, "not HASH:COUNT"),
    ],
)
def test_what_is_refused_without_a_word_of_the_data(table, leaked, args, said):
    with pytest.raises(Malformed, match=said) as caught:
        check(table, leaked, **args)
    assert sha1("b") not in str(caught.value)


def test_sizes_alone_are_said_on_stderr(capsys):
    check(passwords("a", None), LIST)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "password_check: 2 passwords, 1 of them null, 1 different entries listed\n")
