"""The demo's people and their data.

Two hospitals hold scikit-learn's breast cancer data (569 patients, Wisconsin 1995), split by columns: one has the first
fifteen measurements, the other the remaining fifteen and the diagnosis. Each knows only a part of the patients.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

from ...attestation.trust import TrustPolicy
from ...party import Identity, Session, data, read_service_file, read_trust
from ...protocol.statements import Accept

KEY, LABEL = "patient_id", "malignant"
KNOWN_A, KNOWN_B = 500, 470
"""Patients that each hospital knows, of 569."""
SEED = 20190905


@dataclass(frozen=True, slots=True)
class Tables:
    """The plaintext, which in the demo's story never leaves its hospital."""

    a: pd.DataFrame
    b: pd.DataFrame

    @property
    def common(self) -> int:
        """How many patients both know."""
        return len(set(self.a[KEY]) & set(self.b[KEY]))


def tables() -> Tables:
    """Split the data as the hospitals hold it."""
    whole = load_breast_cancer(as_frame=True)
    order = np.random.default_rng(SEED)
    features = whole.data.copy()
    features.insert(0, KEY, [f"P{number:05d}" for number in order.permutation(100_000)[: len(features)]])
    names = [name for name in features.columns if name != KEY]
    a = features.iloc[order.permutation(len(features))[:KNOWN_A]][[KEY, *names[:15]]]
    b = features.iloc[order.permutation(len(features))[:KNOWN_B]][[KEY, *names[15:]]].copy()
    # scikit-learn codes malignant as 0.
    b[LABEL] = (1 - whole.target.loc[b.index]).astype(int)
    return Tables(a, b)


@dataclass(slots=True)
class Stage:
    """Everybody, connected to one service."""

    home: Path
    url: str
    trust: TrustPolicy
    environment: str
    accept: Accept
    people: dict[str, Session]

    def of(self, name: str) -> Session:
        """A person's session."""
        return self.people[name]


def enter(stack: ExitStack, home: Path, names: tuple[str, ...]) -> Stage:
    """Load or make the identities in `home` and connect them."""
    service = read_service_file(home)
    assert service is not None
    trust = read_trust(service.trust)
    people = {}
    for name in names:
        folder = home / "identities" / name
        identity = Identity.load(home, name) if folder.exists() else Identity.create(home, name)
        people[name] = stack.enter_context(Session(service.url, identity, trust))
    accept = Accept(
        min_level=service.level, tees=service.tees, workers=service.workers, allow_simulated=trust.worker.allow_simulated
    )
    return Stage(home, service.url, trust, service.environment, accept, people)


def seal_and_put(session: Session, table: pd.DataFrame, name: str, folder: Path) -> tuple[str, Path]:
    """What an owner does: seal on its own machine, upload ciphertext. Returns the dataset's digest and the sealed file."""
    plain, sealed_path = folder / f"{name}.csv", folder / f"{name}.csv.age"
    table.to_csv(plain, index=False)
    sealed = data.seal(session.identity, plain, sealed_path, keys=[KEY])
    plain.unlink()
    return data.put(session, sealed, name).digest, sealed_path


__all__ = ["KEY", "LABEL", "Stage", "Tables", "enter", "seal_and_put", "tables"]
