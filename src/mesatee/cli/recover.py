"""``mesatee recover``: bring a service's keys to another machine, from its gateway or from the holders of shares."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .._core import protect_process
from ..attestation.endorsements import NOTHING
from ..attestation.trust import ANY, RoleTrust, TrustPolicy
from ..enclave import handover
from ..enclave.gateway import succession
from ..enclave.gateway.identity import ServiceKeys, read_statement
from ..enclave.platform.base import Attester
from ..enclave.platform.measure import environment_digest, measure
from ..enclave.platform.sealing import Sealing
from ..enclave.platform.software import SoftwareAttester, installation_key
from ..errors import Denied, Malformed
from ..party import config, files
from ..party.recovery import give_share
from ..protocol import limits, statements
from ..protocol.digests import is_hex
from ..protocol.recovery import RecoveryRequest, RecoveryShare, parse
from ..protocol.service import SuccessionRules
from . import attesters
from .common import AsJson, emit, facts, moment, settings, short, verb
from .processes import ENVIRONMENT
from .up import Founded

NO_WORKER = (
    "No task can run on this machine, but results can be collected (`mesatee up --no-worker`). For tasks, begin "
    "in an empty folder into which you put `service/installation.key` of the former machine"
)
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


def _runs(folder: Path, rules: RoleTrust) -> bool:
    """Whether these rules for workers name the worker of this machine: its installation key and its code."""
    mine = attesters.trust(attesters.SOFTWARE, folder, (ENVIRONMENT,), "", NOTHING)
    code = rules.measurements == ANY or set(mine.measurements) <= set(rules.measurements)
    return code and set(mine.installation_keys) <= set(rules.installation_keys)


def _rules(said: statements.ServiceStatement) -> RoleTrust:
    return TrustPolicy.from_toml(said.worker_trust).worker


def _worker_row(runs: bool) -> tuple[str, str]:
    return ("worker", "runs here" if runs else f"REFUSED here by the service statement. {NO_WORKER}")


def _done(folder: Path, keys: ServiceKeys, as_json: bool) -> None:
    runs = _runs(folder, _rules(keys.said))
    received = keys.received
    holders = received.holders if received else ()
    value = {
        "service": keys.service.digest,
        "log_key": keys.log.public.hex(),
        "successor": received.successor if received else None,
        "recovered_by": list(holders),
        "worker": runs,
    }
    rows = [
        ("service statement", keys.service.digest),
        ("log key", keys.log.public.hex()),
        ("holders", ", ".join(map(short, holders)) or "the former gateway"),
        _worker_row(runs),
        (
            "next",
            f"put the service's storage in place, and start it: `mesatee up{'' if runs else ' --no-worker'}`",
        ),
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
    folder, mine, sealing = _machine(settings(context).home)
    statement = read_statement(service, "service")
    digest = statement.digest
    runs = _runs(folder, _rules(statements.expect(statement.predicate, statements.ServiceStatement)))
    request = succession.ask_holders(sealing, mine, digest, int(time.time()))
    files.write(out, request.to_bytes(), exclusive=True)
    value = {"service": digest, "request": str(out), "expires": request.expires, "worker": runs}
    rows = [
        ("service statement", digest),
        ("request", out),
        ("expires", moment(request.expires)),
        _worker_row(runs),
    ]
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
    _done(folder, keys, as_json)


@app.command("receive")
@verb
def receive(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="https://HOST:PORT of the gateway that hands over.")],
    service: Annotated[str, typer.Option(help="Digest of its service statement.")],
    no_worker: Annotated[
        bool,
        typer.Option("--no-worker", help="Receive them though the service refuses this machine's worker."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """On the new machine: receive the keys of a gateway that runs, which then serves nobody any more."""
    protect_process()
    if not is_hex(service, 32):
        raise Malformed("the digest of a service statement is a SHA-256 in lower-case hex")
    chosen = settings(context)
    trust, where = chosen.trust(), config.endpoint(url)
    folder, mine, sealing = _machine(chosen.home)
    # The service's own rules come with its keys, and then there is no way back: the trust file says the same before.
    if not no_worker and not _runs(folder, trust.worker):
        raise Denied(
            "the trust file does not accept this machine's worker", hint=f"{NO_WORKER}; or say `--no-worker`"
        )
    keys = succession.receive(
        folder / "enclave",
        sealing,
        service,
        lambda to: handover.ask(mine, (where.host, where.port), trust, service, to),
        lambda keys: _founded(folder, keys),
    )
    _done(folder, keys, as_json)


__all__ = ["app"]
