"""Predictions of trees through the function: columns, names, missing values and outputs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mesatee.enclave.functions.gbdt_predict import gbdt_predict
from mesatee.errors import Malformed
from mesatee.table import Table

xgb = pytest.importorskip("xgboost")
RNG = np.random.default_rng(8)
NAMES = ["age", "dose", "weight"]
ROWS = RNG.normal(size=(200, 3)).astype(np.float32)


def trained(names: list[str] | None, **options: object) -> tuple[bytes, object]:
    label = (ROWS[:, 0] > ROWS[:, 1]).astype(int) + (ROWS[:, 2] > 0) * ("num_class" in options)
    data = xgb.DMatrix(ROWS, label, feature_names=names)
    booster = xgb.train({"objective": "binary:logistic", "nthread": 1, **options}, data, 5)
    return bytes(booster.save_raw("ubj")), booster


def table(**more: object) -> Table:
    return Table.from_dict({**{name: ROWS[:, number] for number, name in enumerate(NAMES)}, **more})


def test_columns_are_found_by_name_and_others_are_kept() -> None:
    model, booster = trained(NAMES)
    given = table(id=list(range(200))).select(["weight", "id", "dose", "age"])
    found = gbdt_predict(model, given, keep=["id"])
    assert found.columns == ["id", "prediction"]
    assert found["id"].to_pylist() == list(range(200))
    assert found["prediction"].to_numpy() == pytest.approx(
        booster.predict(xgb.DMatrix(ROWS, feature_names=NAMES))
    )
    with pytest.raises(Malformed, match="1 of the model's columns are missing: 'dose'"):
        gbdt_predict(model, given.select(["age", "weight", "id"]))


def test_a_model_without_names_takes_columns_in_order_or_as_named() -> None:
    model, booster = trained(None)
    said = booster.inplace_predict(ROWS)
    assert gbdt_predict(model, table())["prediction"].to_numpy() == pytest.approx(said)
    mixed = table(id=list(range(200))).select(["weight", "id", "dose", "age"])
    assert gbdt_predict(model, mixed, columns=NAMES)["prediction"].to_numpy() == pytest.approx(said)
    with pytest.raises(Malformed, match="3 features, and 4 columns"):
        gbdt_predict(model, mixed)


def test_nulls_and_the_number_that_stands_for_them_are_missing() -> None:
    model, booster = trained(NAMES)
    rows = ROWS.copy()
    rows[::3, 1] = np.nan
    said = booster.inplace_predict(rows)
    nulls = pa.array(rows[:, 1], mask=np.isnan(rows[:, 1]))
    numbers = np.where(np.isnan(rows[:, 1]), -7.0, rows[:, 1].astype(np.float64))
    for column, missing in ((rows[:, 1], None), (nulls, None), (numbers, -7.0)):
        found = gbdt_predict(model, table(dose=column), missing=missing)
        assert found["prediction"].to_numpy() == pytest.approx(said)


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int64(), pa.bool_(), pa.float16(), pa.float64(), pa.decimal128(21, 2)]
)
def test_numbers_of_any_type_are_compared_as_xgboost_compares_them(kind: pa.DataType) -> None:
    model, booster = trained(NAMES)
    values = pa.array(np.arange(200) % 2, pa.int64()).cast(kind)
    rows = ROWS.copy()
    rows[:, 1] = np.arange(200) % 2
    found = gbdt_predict(model, table(dose=values), output="margin")
    assert (found["prediction"].to_numpy() == booster.inplace_predict(rows, predict_type="margin")).all()


def test_several_classes_have_a_column_each_and_the_class_is_the_most_probable() -> None:
    model, booster = trained(NAMES, objective="multi:softprob", num_class=3)
    said = booster.inplace_predict(ROWS)
    found = gbdt_predict(model, table())
    assert found.columns == ["prediction_0", "prediction_1", "prediction_2"]
    assert np.stack([found[name].to_numpy() for name in found.columns], 1) == pytest.approx(said, rel=1e-6)
    assert (gbdt_predict(model, table(), output="class")["prediction"].to_numpy() == said.argmax(1)).all()


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 511, 513, 5000])
def test_any_number_of_rows_is_predicted_alike_by_any_engine(rows: int) -> None:
    model, booster = trained(NAMES)
    some = np.resize(ROWS, (rows, 3))
    given = Table.from_dict({name: some[:, number] for number, name in enumerate(NAMES)})
    said = booster.inplace_predict(some, predict_type="margin") if rows else np.zeros(0)
    for options in ({}, {"oblivious": True}, {"threads": 3}):
        found = gbdt_predict(model, given, output="margin", **options)
        assert (found["prediction"].to_numpy() == said).all()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"output": "odds"}, "output is one of"),
        ({"threads": -1}, "threads"),
        ({"missing": float("nan")}, "leave missing out"),
        ({"keep": ["no"]}, "keep names 'no'"),
        ({"columns": ["age"]}, "1 columns are given"),
        ({"columns": ["age", "age", "dose"]}, "stands twice"),
        ({"columns": ["age", "dose", "name"]}, "not numbers"),
    ],
)
def test_wrong_arguments_are_refused(given: dict, reason: str) -> None:
    model, _ = trained(NAMES)
    with pytest.raises(Malformed, match=reason):
        gbdt_predict(model, table(name=["x"] * 200), **given)
