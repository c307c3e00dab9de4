"""A permit is good once, for one thing, where it was made."""

from __future__ import annotations

import copy
import pickle

import pytest

from mesatee.enclave.gateway.permit import Action, Mint, Permit
from mesatee.errors import Denied


def test_a_permit_is_spent_by_its_use() -> None:
    permit = Mint().permit(Action.INVOKE, "run", 3)
    assert (permit.action, permit.subject, permit.index) == (Action.INVOKE, "run", 3)
    permit.use(Action.INVOKE, "run")
    with pytest.raises(Denied, match="spent"):
        permit.use(Action.INVOKE, "run")


@pytest.mark.parametrize("action", list(Action))
def test_a_permit_is_for_one_action_on_one_subject(action: Action) -> None:
    permit = Mint().permit(action, "this", 0)
    for other in Action:
        with pytest.raises(Denied):
            permit.use(other, "that")
        if other is not action:
            with pytest.raises(Denied):
                permit.use(other, "this")
    # Being refused has not spent it.
    permit.use(action, "this")


def test_only_a_mint_makes_permits() -> None:
    class Forger(Mint):  # type: ignore[misc]
        """Not the class itself."""

    for forged in (None, object(), Mint, Forger()):
        with pytest.raises(Denied):
            Permit(Action.INVOKE, "run", 0, mint=forged)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Permit(Action.INVOKE, "run", 0)  # type: ignore[call-arg]


def test_a_permit_is_neither_copied_nor_pickled() -> None:
    permit = Mint().permit(Action.INVOKE, "run", 0)
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            take(permit)


def test_a_permit_made_without_its_constructor_is_good_for_nothing() -> None:
    empty = Permit.__new__(Permit)
    with pytest.raises(AttributeError):
        empty.use(Action.INVOKE, "run")
    with pytest.raises(AttributeError):
        empty.more = 1  # type: ignore[attr-defined]
