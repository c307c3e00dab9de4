"""Principal components against numpy's singular value decomposition and eigenvalues."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_wine

from mesatee.enclave.functions.pca import COLUMNS, pca
from mesatee.errors import Malformed
from mesatee.table import Table


def table(values, names=None):
    return Table.from_dict(
        {name: values[:, at] for at, name in enumerate(names or "abcdefghijklm"[: values.shape[1]])}
    )


def numbers(found, prefix="pc"):
    return np.column_stack([found[name].to_numpy() for name in found.columns if name.startswith(prefix)])


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 30), st.integers(1, 6), st.booleans(), st.integers(0, 2**32 - 1))
def test_scores_loadings_and_variance_are_those_of_numpy(rows, columns, scale, seed):
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, columns)) * random.uniform(0.1, 9, columns) + random.normal(
        size=columns
    )
    given_ = table(values)
    components = min(rows - 1, columns)
    args = {"components": components, "scale": scale}
    ready = values - values.mean(axis=0)
    if scale:
        ready = ready / values.std(axis=0, ddof=1)
    _, singular, directions = np.linalg.svd(ready, full_matrices=False)
    variance = pca(given_, output="variance", **args)
    assert np.allclose(variance["variance"].to_numpy(), singular[:components] ** 2 / (rows - 1))
    assert np.allclose(variance["ratio"].to_numpy(), (singular**2 / (singular**2).sum())[:components])
    assert np.allclose(variance["cumulative"].to_numpy()[-1], 1)
    assert variance["rows"].to_pylist() == [rows] * components
    loadings = pca(given_, output="loadings", **args)
    found = numbers(loadings)
    assert np.allclose(np.abs(found), np.abs(directions[:components].T), atol=1e-6)
    assert np.allclose(found.T @ found, np.eye(components), atol=1e-9)
    # The first of those that are equally large.
    sizes = np.abs(found)
    largest = (sizes >= sizes.max(axis=0) * (1 - 1e-9)).argmax(axis=0)
    assert (found[largest, range(components)] > 0).all()
    assert loadings["column"].to_pylist() == given_.columns
    # What the docstring says of new rows holds for those that were analysed.
    means, scales = loadings["mean"].to_numpy(), loadings["scale"].to_numpy()
    scores = numbers(pca(given_, **args))
    assert np.allclose(((values - means) / scales) @ found, scores)
    assert np.allclose(scores @ found.T, ready, atol=1e-9)
    assert scale or (scales == 1).all()


def test_of_real_data_with_columns_to_keep():
    wine = load_wine()
    names = [f"w{at}" for at in range(wine.data.shape[1])]
    arrow = table(wine.data, names).to_arrow().append_column("kind", pa.array(wine.target.astype(str)))
    scores = pca(Table(arrow), keep=["kind"], scale=True)
    assert scores.columns == ["kind", "pc1", "pc2"]
    assert scores["kind"].to_pylist() == arrow["kind"].to_pylist()
    ratio = pca(Table(arrow), columns=names, scale=True, output="variance")["ratio"].to_pylist()
    # As every textbook has it for this data.
    assert [round(value, 4) for value in ratio] == [0.362, 0.1921]


def test_the_sign_does_not_depend_on_noise():
    """Two loadings that are equally large but for the sign: the first one is positive, whatever the last digit says."""
    one = np.array([1.0, 2.0, 4.0, 7.0])
    for factor in (1, -1, 3, -0.1):
        values = np.column_stack([one * factor, -one * factor])
        found = numbers(pca(table(values), components=1, output="loadings"))
        assert np.allclose(found[:, 0], [math.sqrt(0.5), -math.sqrt(0.5)])


def test_the_same_input_gives_the_same_bytes_and_another_order_the_same_analysis():
    values = np.random.default_rng(3).normal(size=(50, 4))
    assert pca(table(values)) == pca(table(values))
    shuffled = np.random.default_rng(4).permutation(values)
    for output in ("loadings", "variance"):
        one, other = (pca(table(item), output=output).to_pandas() for item in (values, shuffled))
        assert np.allclose(one.select_dtypes("number"), other.select_dtypes("number"))


def test_kinds_of_numbers():
    given_ = Table(
        pa.table(
            {
                "i": pa.array([1, 2, 4], pa.int8()),
                "f": pa.array([1.5, 0, 2], pa.float32()),
                "b": pa.array([True, False, True]),
            }
        )
    )
    values = np.array([[1, 1.5, 1], [2, 0, 0], [4, 2, 1]])
    assert np.allclose(numbers(pca(given_)), numbers(pca(table(values))))


def test_rows_that_do_not_differ():
    found = pca(table(np.full((3, 2), 0.1)), output="variance")
    assert found["ratio"].to_pylist() == [0.0, 0.0]


PLAIN = {"a": [1.0, 2.0, 3.0], "b": [2.0, 1.0, 0.5]}


@pytest.mark.parametrize(
    ("columns", "args", "said"),
    [
        (PLAIN, {"output": "all"}, "output is one of"),
        (PLAIN, {"components": 0}, "from 1 to 2"),
        (PLAIN, {"components": 3}, "from 1 to 2"),
        (PLAIN, {"columns": ["no"]}, "no columns 'no'"),
        (PLAIN, {"columns": ["a", "a"]}, "twice"),
        (PLAIN, {"keep": ["a", "b"]}, "0 columns"),
        (PLAIN, {"keep": ["a"], "output": "loadings"}, "keep is for scores"),
        ({**PLAIN, "pc1": ["x"] * 3}, {"keep": ["pc1"]}, "'pc1' to keep"),
        ({"a": [1.0], "b": [2.0]}, {}, "two rows"),
        ({"a": [1.0, None], "b": [2.0, 1.0]}, {}, "'a' has nulls"),
        ({"a": [1.0, 2.0], "b": [2.0, math.nan]}, {}, "'b' has NaN"),
        ({"a": [1.0, 2.0], "b": [2.0, math.inf]}, {}, "'b' has NaN or infinity"),
        ({"a": [1.0, 2.0], "b": ["x", "y"]}, {}, "'b' is string"),
        ({"a": [1.0, 2.0], "b": [0.1, 0.1]}, {"scale": True}, "'b' is constant"),
        ({"a": [1e308, -1e308], "b": [1.0, 2.0]}, {}, "too large"),
        ({f"c{at}": [1.0, 2.0] for at in range(COLUMNS + 1)}, {}, "2049 columns"),
    ],
)
def test_what_is_refused(columns, args, said):
    with pytest.raises(Malformed, match=said):
        pca(Table.from_dict(columns), **args)


def test_as_many_columns_as_there_may_be():
    found = pca(Table.from_dict({f"c{at}": [1.0, 2.0] for at in range(COLUMNS)}), components=1)
    assert np.allclose(numbers(found)[:, 0], [-math.sqrt(COLUMNS) / 2, math.sqrt(COLUMNS) / 2])


def test_two_columns_of_one_name():
    twice = Table(pa.Table.from_arrays([pa.array([1.0, 2.0])] * 2, names=["a", "a"]))
    with pytest.raises(Malformed, match="two columns of one name"):
        pca(twice)
