"""The scientist's function: join two hospitals' rows by patient id and train a logistic regression.

It runs inside the sandbox of an attested worker. It returns figures about the model, never rows.
"""

from typing import Any

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mesatee.table import Table


def train(left: Table, right: Table, *, key: str, label: str, test_share: float = 0.25) -> dict[str, Any]:
    """Train on a random part of the joined rows, test on the rest, which the training never sees."""
    rows = left.to_pandas().merge(right.to_pandas(), on=key, validate="one_to_one")
    features = rows.drop(columns=[key, label])
    train_x, test_x, train_y, test_y = train_test_split(
        features, rows[label], test_size=test_share, random_state=7, stratify=rows[label]
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train_x, train_y)
    return {
        "rows": len(rows),
        "features": features.shape[1],
        "tested_on": len(test_y),
        "accuracy": round(float(model.score(test_x, test_y)), 4),
        "majority_class": round(float(max(test_y.mean(), 1 - test_y.mean())), 4),
    }
