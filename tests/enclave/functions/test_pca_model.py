"""Principal components across parties, against those of one table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.decomposition import PCA
from tests.support.learners import agree, column, one, table, the_same_everywhere

from mesatee.enclave.functions.pca import pca
from mesatee.enclave.functions.pca_model import pca_model
from mesatee.enclave.functions.predict import predict
from mesatee.errors import Malformed


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("parties", [2, 5])
def test_scores_are_those_of_pca(scale, parties):
    frame = datasets.load_wine(as_frame=True).frame.drop(columns="target")
    names = list(frame.columns)
    found = the_same_everywhere(pca_model, frame, parties, columns=names, components=3, scale=scale)
    scores = predict(found.model, table(frame))
    theirs = pca(table(frame), columns=names, components=3, scale=scale)
    assert scores.columns == ["pc1", "pc2", "pc3"]
    for name in scores.columns:
        assert agree(column(scores, name), column(theirs, name), 1e-7, 1e-7)
    for output in ("loadings", "variance"):
        alone = pca(table(frame), columns=names, components=3, scale=scale, output=output).to_pandas()
        ours = getattr(found, output).to_pandas()
        assert agree(
            ours.select_dtypes("number")[alone.select_dtypes("number").columns],
            alone.select_dtypes("number"),
            1e-7,
        )


def test_new_rows_are_projected_as_scikit_learn_does():
    frame = datasets.load_iris(as_frame=True).frame.drop(columns="target")
    found = pca_model(one(frame[:100]), components=2)
    theirs = PCA(2).fit(frame[:100])
    scores = predict(found.model, table(frame[100:]))
    ours = np.column_stack([column(scores, "pc1"), column(scores, "pc2")])
    assert agree(np.abs(ours), np.abs(theirs.transform(frame[100:])), 1e-8)


@pytest.mark.parametrize(
    ("columns", "arguments", "said"),
    [
        ({"x": [1.0, 2.0]}, {"components": 2}, "components is from 1 to 1"),
        ({"x": [1.0, None], "y": [1.0, 2.0]}, {}, "1 rows .* too few"),
        ({"x": [1.0, 1.0], "y": [1.0, 2.0]}, {"scale": True}, "'x' is constant"),
        ({"x": ["u", "v"]}, {"columns": "x"}, "not numbers"),
    ],
)
def test_what_is_refused(columns, arguments, said):
    with pytest.raises(Malformed, match=said):
        pca_model(one(pd.DataFrame(columns)), **arguments)
