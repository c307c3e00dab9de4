"""The engine for trees against the libraries that trained them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.support import forests

from mesatee._core import TreeModel

ENGINES: list[dict[str, Any]] = [
    {},
    {"threads": 2},
    {"portable": True},
    {"portable": True, "oblivious": True},
]
FEW, MANY = range(30), range(30, 1000)


def check(case: forests.Case, exact: bool) -> None:
    """Sums are equal to the last bit if `exact`; what comes of them to a few units in the last place."""
    model = TreeModel(case.model)
    columns, rows = forests.columns(case.rows), len(case.rows)
    margins = [np.frombuffer(model.predict(columns, rows, output="margin", **engine)) for engine in ENGINES]
    for other in margins[1:]:
        assert np.array_equal(margins[0], other, equal_nan=True), case.said
    margin = margins[0].reshape(case.margin.shape)
    if exact:
        assert np.array_equal(margin.astype(case.margin.dtype), case.margin, equal_nan=True), case.said
    else:
        assert np.allclose(margin, case.margin, rtol=1e-12, atol=1e-12, equal_nan=True), case.said
    output = "class" if case.response.shape != case.margin.shape or case.classes else "response"
    response = np.frombuffer(model.predict(columns, rows, output=output)).reshape(case.response.shape)
    near = 1e-6 if case.margin.dtype == np.float32 else 1e-12
    assert np.allclose(response, case.response, rtol=near, atol=near * 1e-3, equal_nan=True), case.said


@pytest.mark.parametrize("seed", FEW)
def test_predictions_are_those_of_xgboost(seed: int) -> None:
    check(forests.xgboost(seed, "json" if seed % 2 else "ubj"), exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_predictions_are_those_of_xgboost_on_a_thousand_models(seed: int) -> None:
    check(forests.xgboost(seed, "json" if seed % 2 else "ubj"), exact=True)


@pytest.mark.parametrize("seed", FEW)
def test_predictions_are_those_of_lightgbm(seed: int) -> None:
    check(forests.lightgbm(seed), exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_predictions_are_those_of_lightgbm_on_a_thousand_models(seed: int) -> None:
    check(forests.lightgbm(seed), exact=True)


def check_response(case: forests.Case) -> None:
    model = TreeModel(case.model)
    columns, rows = forests.columns(case.rows), len(case.rows)
    found = [np.frombuffer(model.predict(columns, rows, **engine)) for engine in ENGINES]
    for other in found[1:]:
        assert np.array_equal(found[0], other), case.said
    assert np.allclose(found[0].reshape(case.response.shape), case.response, rtol=1e-13, atol=1e-13), (
        case.said
    )


@pytest.mark.parametrize("seed", FEW)
def test_predictions_are_those_of_scikit_learn(seed: int) -> None:
    check_response(forests.sklearn(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30, 300))
def test_predictions_are_those_of_scikit_learn_on_many_models(seed: int) -> None:
    check_response(forests.sklearn(seed))
