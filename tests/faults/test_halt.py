"""A service whose storage was rolled back stops for good, also for `mesatee up` that starts it again."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.town import Town

from mesatee.cli import up
from mesatee.enclave.gateway.forks import FORKS_FILE
from mesatee.errors import ForkDetected, Halted

pytestmark = pytest.mark.e2e


def visit(home: Path, who: str) -> str | None:
    """Start, come in, leave, stop; returns what the gateway said of itself at its start."""
    with ExitStack() as stack:
        service = stack.enter_context(up.running(home, with_worker=False))
        halted = service.process("gateway").facts["halted"]
        Town(home, stack).enter(who)
    return None if halted is None else str(halted)


def swap(home: Path, name: str) -> None:
    """The host comes back with another copy of all that it stores."""
    host = home / "service" / "host"
    shutil.rmtree(host)
    shutil.copytree(home / name, host)
    host.chmod(0o700)


def test_a_service_that_has_forked_stays_stopped_over_restarts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    host, proof = home / "service" / "host", home / "service" / "enclave" / FORKS_FILE
    assert visit(home, "alice") is None
    shutil.copytree(host, home / "older")
    assert visit(home, "alice") is None
    shutil.copytree(host, home / "newer")
    swap(home, "older")
    # She remembers; who comes for the first time cannot.
    with pytest.raises(ForkDetected):
        visit(home, "alice")
    assert proof.exists()
    with pytest.raises(Halted):
        visit(home, "bob")
    # The host can delete the proof, and then is convicted again as soon as she returns.
    proof.unlink()
    assert visit(home, "bob") is None
    with pytest.raises(ForkDetected):
        visit(home, "alice")
    with pytest.raises(Halted):
        visit(home, "carol")
    # With the log that she knows the service goes on; but bob was shown the other one, and convicts it.
    swap(home, "newer")
    assert visit(home, "alice") is None
    with pytest.raises(ForkDetected):
        visit(home, "bob")
    with pytest.raises(Halted, match="rolled back or forked"):
        visit(home, "alice")
    # No log extends both.
    swap(home, "older")
    with pytest.raises(Halted):
        visit(home, "carol")
