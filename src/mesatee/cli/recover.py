"""``mesatee recover``: bring a service's keys to another machine, from its gateway or from the holders of shares."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .._core import protect_process
from ..enclave import handover
from ..enclave.gateway import succession
from ..enclave.gateway.identity import ServiceKeys, read_statement
from ..enclave.platform.base import Attester
from ..enclave.platform.measure import environment_digest, measure
from ..enclave.platform.sealing import Sealing
from ..enclave.platform.software import SoftwareAttester, installation_key
from ..errors import Malformed
from ..party import config, files
from ..party.recovery import give_share
from ..protocol import limits
from ..protocol.digests import is_hex
from ..protocol.recovery import RecoveryRequest, RecoveryShare, parse
from ..protocol.service import SuccessionRules
from . import attesters
from .common import AsJson, emit, facts, moment, settings, short, verb
from .processes import ENVIRONMENT
from .up import Founded

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Statement = Annotated[Path, typer.Argument(help="The service statement: `service.json` of the service.")]
Shares = Annotated[Path, typer.Argument(help="The sealed shares: `recovery.json` of the service.")]


def _machine(home: Path) -> tuple[Path, Attester, Sealing]:
    """Folder, attester and sealing of the gateway that is to be in `home`."""
    folder = home / "service"
    files.private_folder(folder)
    mine = SoftwareAttester(installation_key(folder / "installation.key"), measure(()))
    return folder, mine, attesters.sealing(attesters.SOFTWARE, folder)


def _founded(folder: Path, keys: ServiceKeys) -> None:
    """Write down how the service was founded, so that `mesatee up` continues it."""
    said = keys.said
    found = Founded(
        origin=said.origin,
        level=2,
        port=0,
        platform_policy=said.platform_policy,
        worker_trust=said.worker_trust,
        environment=environment_digest(ENVIRONMENT),
        succession=SuccessionRules(hand_over=said.hand_over, share_holders=said.share_holders),
    )
    files.write(folder / "founded.json", found.model_dump_json().encode())


def _done(keys: ServiceKeys, as_json: bool) -> None:
    received = keys.received
    holders = received.holders if received else ()
    value = {
        "service": keys.service.digest,
        "log_key": keys.log.public.hex(),
        "successor": received.successor if received else None,
        "recovered_by": list(holders),
    }
    rows = [
        ("service statement", keys.service.digest),
        ("log key", keys.log.public.hex()),
        ("holders", ", ".join(map(short, holders)) or "the former gateway"),
        ("next", "put the service's storage in place and start it: `mesatee up`"),
    ]
    emit(as_json, value, lambda console: facts(console, rows))


@app.command("ask")
@verb
def ask(
    context: typer.Context,
    service: Statement,
    out: Annotated[Path, typer.Argument(help="The request, for the holders of shares.")],
    as_json: AsJson = False,
) -> None:
    """On the new machine: make a request for the holders, with this machine's evidence. Earlier ones count no more."""
    protect_process()
    _, mine, sealing = _machine(settings(context).home)
    digest = read_statement(service, "service").digest
    request = succession.ask_holders(sealing, mine, digest, int(time.time()))
    files.write(out, request.to_bytes(), exclusive=True)
    value = {"service": digest, "request": str(out), "expires": request.expires}
    rows = [("service statement", digest), ("request", out), ("expires", moment(request.expires))]
    emit(as_json, value, lambda console: facts(console, rows))


@app.command("give")
@verb
def give(
    context: typer.Context,
    service: Statement,
    recovery: Shares,
    request: Annotated[Path, typer.Argument(help="The request of the new machine.")],
    out: Annotated[Path, typer.Argument(help="Your share, wrapped to that machine.")],
    as_json: AsJson = False,
) -> None:
    """As a holder: open your share and wrap it to the new machine, if your trust file accepts that machine.

    It counts for this request alone.
    """
    protect_process()
    chosen = settings(context)
    who = chosen.identity()
    asked = parse(RecoveryRequest, files.read(request, limits.RECOVERY_MESSAGE_BYTES, "the request"))
    holder = who.signing.public.hex()
    made = give_share(
        read_statement(service, "service"),
        read_statement(recovery, "recovery"),
        asked,
        holder,
        who.age,
        chosen.trust(),
        int(time.time()),
    )
    files.write(out, made.to_bytes(), exclusive=True)
    value = {"service": made.service, "holder": holder, "share": str(out)}
    rows = [("service statement", made.service), ("holder", holder), ("share", out)]
    emit(as_json, value, lambda console: facts(console, rows))


@app.command("finish")
@verb
def finish(
    context: typer.Context,
    service: Statement,
    recovery: Shares,
    given: Annotated[list[Path], typer.Argument(help="The shares that the holders gave.")],
    as_json: AsJson = False,
) -> None:
    """On the new machine: combine the holders' shares and seal the service's keys here."""
    protect_process()
    folder, _, sealing = _machine(settings(context).home)
    shares = [
        parse(RecoveryShare, files.read(path, limits.RECOVERY_MESSAGE_BYTES, "a share"))
        for path in given[: limits.SHARE_HOLDERS + 1]
    ]
    keys = succession.recover(
        folder / "enclave",
        sealing,
        read_statement(service, "service"),
        read_statement(recovery, "recovery"),
        shares,
        int(time.time()),
        lambda keys: _founded(folder, keys),
    )
    _done(keys, as_json)


@app.command("receive")
@verb
def receive(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="https://HOST:PORT of the gateway that hands over.")],
    service: Annotated[str, typer.Option(help="Digest of its service statement.")],
    as_json: AsJson = False,
) -> None:
    """On the new machine: receive the keys of a gateway that runs, which then serves nobody any more."""
    protect_process()
    if not is_hex(service, 32):
        raise Malformed("the digest of a service statement is a SHA-256 in lower-case hex")
    chosen = settings(context)
    trust, where = chosen.trust(), config.endpoint(url)
    folder, mine, sealing = _machine(chosen.home)
    keys = succession.receive(
        folder / "enclave",
        sealing,
        service,
        lambda to: handover.ask(mine, (where.host, where.port), trust, service, to),
        lambda keys: _founded(folder, keys),
    )
    _done(keys, as_json)


__all__ = ["app"]
