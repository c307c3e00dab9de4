"""Model documents: one way to write and to read them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import learned, limits

NUMBER: dict[str, Any] = {"name": "x", "levels": None, "reference": None}
LEVELS: dict[str, Any] = {"name": "c", "levels": ["u", "v"], "reference": "u"}
LINEAR: dict[str, Any] = {
    "kind": "linear",
    "version": 1,
    "columns": [NUMBER, LEVELS],
    "family": "binomial",
    "link": "logit",
    "intercept": 0.5,
    "coefficients": [1.0, 2.0],
    "offset": None,
    "classes": ["no", "yes"],
}
SCALED: dict[str, Any] = {"version": 1, "columns": [NUMBER], "centre": [0.0], "scale": [1.0]}
K_MEANS = {**SCALED, "kind": "k_means", "centres": [[1.0], [2.0]]}
BAYES = {
    "kind": "naive_bayes",
    "version": 1,
    "columns": [NUMBER],
    "distribution": "gaussian",
    "classes": [1, 2],
    "log_priors": [-0.5, -0.9],
    "means": [[0.0], [1.0]],
    "variances": [[1.0], [2.0]],
    "log_shares": None,
}
SVM = {
    **SCALED,
    "kind": "svm",
    "kernel": "rbf",
    "classes": ["a", "b"],
    "gamma": 0.5,
    "vectors": [[0.0], [1.0], [2.0]],
    "counts": [1, 2],
    "weights": [[1.0, -0.5, -0.5]],
    "intercepts": [0.1],
}
MIXTURE = {
    **SCALED,
    "kind": "gaussian_mixture",
    "weights": [0.5, 0.5],
    "means": [[0.0], [1.0]],
    "covariances": [[[1.0]], [[2.0]]],
}
PCA = {**SCALED, "kind": "pca", "directions": [[1.0]]}
ALL = [LINEAR, K_MEANS, BAYES, SVM, MIXTURE, PCA]


def read(value: Any) -> learned.Document:
    return learned.read(json.dumps(value).encode())


@pytest.mark.parametrize("value", ALL, ids=[value["kind"] for value in ALL])
def test_what_is_written_is_read_and_written_the_same(value):
    found = read(value)
    text = learned.write(found)
    assert learned.read(text) == found
    assert learned.write(learned.read(text)) == text
    assert json.loads(text) == value


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2), st.text(max_size=20)
)
def test_numbers_come_back_to_the_last_bit_and_texts_to_the_last_sign(numbers, level):
    try:
        level.encode()
    except UnicodeEncodeError:
        return
    columns = [NUMBER, {**LEVELS, "levels": ["u", "u" + level, level + "uu"], "reference": "u"}]
    if len({*columns[1]["levels"]}) < 3:
        return
    found = read({**LINEAR, "columns": columns, "coefficients": [*numbers, 0.0]})
    again = learned.read(learned.write(found))
    assert isinstance(again, learned.Linear)
    assert [value.hex() for value in again.coefficients[:2]] == [value.hex() for value in numbers]
    assert again.columns[1].levels == ("u", "u" + level, level + "uu")


@pytest.mark.parametrize("classes", [["a", "b"], [1, 2], [1.5, 2.0], [False, True], [-(2**63), 2**63 - 1]])
def test_classes_keep_their_type(classes):
    found = read({**LINEAR, "classes": classes})
    assert isinstance(found, learned.Linear)
    assert found.classes is not None
    assert [type(label) for label in found.classes] == [type(label) for label in classes]
    again = learned.read(learned.write(found))
    assert isinstance(again, learned.Linear)
    assert again.classes == tuple(classes)


WRONG = [
    (LINEAR, {"kind": "forest"}, "no kind of"),
    (LINEAR, {"version": 2}, "another version"),
    (LINEAR, {"version": True}, "another version"),
    (LINEAR, {"extra": 1}, "Extra inputs"),
    (LINEAR, {"family": "normal"}, "family"),
    (LINEAR, {"link": "eval"}, "link"),
    (LINEAR, {"intercept": "0"}, "valid number"),
    (LINEAR, {"coefficients": [1.0]}, "coefficients has 2 numbers"),
    (LINEAR, {"coefficients": [1.0, True]}, "valid number"),
    (LINEAR, {"columns": [NUMBER, NUMBER]}, "each column is named once"),
    (LINEAR, {"columns": [NUMBER, {**LEVELS, "levels": ["u", "u"]}]}, "each level is named once"),
    (LINEAR, {"columns": [NUMBER, {**LEVELS, "reference": "w"}]}, "one of the levels"),
    (LINEAR, {"columns": [NUMBER, {**LEVELS, "levels": []}]}, "at least 1"),
    (LINEAR, {"columns": [{**NUMBER, "name": ""}, LEVELS]}, "at least 1"),
    (LINEAR, {"classes": ["a", "a"]}, "different"),
    (LINEAR, {"classes": ["a", 1]}, "of one type"),
    (LINEAR, {"classes": ["a", "b", "c"]}, "at most 2"),
    (LINEAR, {"family": "poisson", "link": "log"}, "only the family binomial"),
    (K_MEANS, {"centres": []}, "at least 1"),
    (K_MEANS, {"centres": [[1.0], [1.0, 2.0]]}, "centres has 2 rows of 1"),
    (K_MEANS, {"scale": [0.0]}, "scales are above 0"),
    (K_MEANS, {"centre": []}, "centre has 1 numbers"),
    (BAYES, {"classes": [2, 1]}, "in order"),
    (BAYES, {"classes": [1, "2"]}, "one type"),
    (BAYES, {"classes": [1]}, "at least 2"),
    (BAYES, {"variances": [[1.0], [0.0]]}, "variances are above 0"),
    (BAYES, {"log_shares": [[0.0], [0.0]]}, "are for gaussian"),
    (BAYES, {"means": None}, "are for gaussian"),
    (BAYES, {"columns": [LEVELS]}, "if, and only if"),
    (BAYES, {"log_priors": [0.0]}, "log_priors has 2"),
    (SVM, {"counts": [1, 1]}, "counts say"),
    (SVM, {"counts": [4, -1]}, "greater than or equal to 0"),
    (SVM, {"gamma": 0.0}, "greater than 0"),
    (SVM, {"gamma": None}, "are for rbf"),
    (SVM, {"vectors": [[0.0], [1.0]]}, "weights has 1 rows of 2"),
    (SVM, {"intercepts": [1.0, 2.0]}, "intercepts has 1"),
    (SVM, {"kernel": "linear"}, "are for rbf"),
    (MIXTURE, {"covariances": [[[1.0]]]}, "covariances has 2"),
    (MIXTURE, {"covariances": [[[1.0]], [[1.0, 2.0]]]}, "a covariance has 1 rows"),
    (MIXTURE, {"weights": [0.5, 0.0]}, "weights are above 0"),
    (PCA, {"directions": [[1.0, 2.0]]}, "directions has 1 rows of 1"),
]


@pytest.mark.parametrize(("value", "changes", "said"), WRONG)
def test_what_does_not_fit_together_is_refused(value, changes, said):
    with pytest.raises(Malformed, match=said):
        read({**value, **changes})


@pytest.mark.parametrize("value", ALL, ids=[value["kind"] for value in ALL])
def test_every_field_is_needed(value):
    for name in value:
        with pytest.raises(Malformed):
            read({key: item for key, item in value.items() if key != name})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\x80\x04\x95",
        b'{"kind": "linear"',
        b'{"kind": "linear", "kind": "svm", "version": 1}',
        json.dumps(LINEAR).replace("0.5", "NaN").encode(),
        json.dumps(LINEAR).replace("0.5", "1e999").encode(),
        json.dumps(LINEAR).encode() + b" {}",
        json.dumps(LINEAR).encode("utf-16"),
        b'{"kind":"linear","version":1,"columns":' + b"[" * 50 + b"]" * 50 + b"}",
    ],
)
def test_what_is_no_strict_json_is_refused(data):
    with pytest.raises(InputError):
        learned.read(data)


def test_a_message_never_quotes_a_value():
    with pytest.raises(Malformed) as caught:
        read({**LINEAR, "link": "canary-1", "coefficients": ["canary-2"]})
    assert "canary" not in caught.value.message


def test_limits(monkeypatch):
    wide = {"name": "c", "levels": [str(n) for n in range(limits.LEARNED_LEVELS)], "reference": "0"}
    most = {**LINEAR, "columns": [wide], "coefficients": [0.0] * (limits.LEARNED_LEVELS - 1)}
    assert read(most)
    wide = {**wide, "levels": [str(n) for n in range(limits.LEARNED_LEVELS + 1)]}
    with pytest.raises(Malformed, match="at most"):
        read({**most, "columns": [wide], "coefficients": [0.0] * limits.LEARNED_LEVELS})
    columns = [{**NUMBER, "name": str(n)} for n in range(limits.LEARNED_COLUMNS)]
    assert read({**LINEAR, "columns": columns, "coefficients": [0.0] * len(columns)})
    columns = [*columns, NUMBER]
    with pytest.raises(Malformed, match="at most"):
        read({**LINEAR, "columns": columns, "coefficients": [0.0] * len(columns)})
    groups = limits.LEARNED_GROUPS
    assert read({**K_MEANS, "centres": [[0.0]] * groups})
    with pytest.raises(Malformed, match="at most"):
        read({**K_MEANS, "centres": [[0.0]] * (groups + 1)})
    levels = ["u", "v" * limits.LEARNED_LEVEL_CHARS]
    assert read({**LINEAR, "columns": [NUMBER, {**LEVELS, "levels": levels}]})
    with pytest.raises(Malformed, match="at most"):
        read({**LINEAR, "columns": [NUMBER, {**LEVELS, "levels": ["u", levels[1] + "v"]}]})
    document = read(LINEAR)
    text = learned.write(document)
    monkeypatch.setattr(limits, "LEARNED_BYTES", len(text))
    assert learned.read(text) == document
    assert learned.write(document) == text
    monkeypatch.setattr(limits, "LEARNED_BYTES", len(text) - 1)
    with pytest.raises(TooLarge):
        learned.read(text)
    with pytest.raises(Malformed, match="the limit is"):
        learned.write(document)


def test_features_of_many_levels_are_counted(monkeypatch):
    monkeypatch.setattr(limits, "LEARNED_FEATURES", 2)
    assert read(LINEAR)
    monkeypatch.setattr(limits, "LEARNED_FEATURES", 1)
    with pytest.raises(Malformed, match="at most 1 features"):
        read(LINEAR)
