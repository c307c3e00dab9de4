"""The embedded launcher: host, gateway and worker as processes of their own, from one command.

State lives in ``HOME/service``; what clients need (``trust.toml`` with the pinned fingerprint and measurements, and
``service.toml``) is written to HOME. A process that dies is started again; all end when the launcher does, and the next
launcher waits for them and removes what they have left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..attestation.appraisal import LEVELS
from ..attestation.endorsements import Endorsements
from ..attestation.trust import GatewayTrust, RoleTrust, TrustPolicy
from ..enclave import faults
from ..enclave.gateway.monitor import LEASE_SECONDS
from ..enclave.gateway.policy import PolicySet
from ..enclave.platform.measure import environment_digest
from ..endorse.store import Store
from ..errors import Conflict, Malformed, MesateeError, TimedOut, Unavailable, from_dict
from ..party import files
from ..party.config import read_service_file, read_trust, write_service_file
from ..protocol import limits
from ..protocol.jsonstrict import parse_object
from ..protocol.model import Model, validate
from ..protocol.policy_text import DEFAULT_PLATFORM_POLICY
from ..protocol.service import SuccessionRules
from . import attesters, bytecode, classes
from .processes import ENVIRONMENT, ProcessConfig

MODULE = "mesatee.cli.processes"
READY_SECONDS = 60.0
"""How long a process may take to say that it is ready."""
STOP_SECONDS = 10.0
"""How long it may take to stop before it is killed."""
RESTARTS = 5
"""A process that ends this often within RESTART_WINDOW is given up."""
RESTART_WINDOW = 60.0
LEFTOVER_SECONDS = 20.0
"""How long a start waits for the processes of a launcher that was killed: longer than they take to end."""
RUNTIME_PREFIX = "mesatee-"
"""Of the folder for sockets; it lies among the temporary files, because a socket's path must be short."""
LISTEN_HOST = "127.0.0.1"
ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""For gateway and host, which live long: glibc gives back what is freed. By itself it learns from large pieces, as
snapshots and files are, to keep them, and has a heap for each thread."""
HOME_SHOWN = "~/.local/share/mesatee"
"""The home folder of a party that has set no other."""


@dataclass(slots=True)
class Process:
    """One process of the service, started again when it dies, and then without the fault that it was asked for."""

    name: str
    command: list[str]
    log: Path
    environ: dict[str, str] = field(default_factory=dict)
    holds: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    child: subprocess.Popen[bytes] | None = None
    ends: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start it and wait until it is ready. Raises what the process says, or `TimedOut`."""
        environ = {**os.environ, **self.environ}
        if self.child is not None:
            # It died where a fault test wanted it to; what is shown is that it comes back.
            environ.pop(faults.VARIABLE, None)
            self._close_pipes()
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                pass_fds=self.holds,
                start_new_session=True,
            )
        line: list[bytes] = []
        output = self.child.stdout
        reader = threading.Thread(
            target=lambda: line.append(output.readline() if output else b""), daemon=True
        )
        reader.start()
        reader.join(READY_SECONDS)
        if not line:
            self.kill()
            raise TimedOut(
                f"the {self.name} was not ready within {READY_SECONDS:.0f} s", hint=f"see {self.log}"
            )
        try:
            said = parse_object(line[0] or b"{}")
        except MesateeError:
            said = {}
        if said.get("event") != "ready":
            self.kill()
            if "code" in said:
                raise from_dict(said)
            raise Unavailable(f"the {self.name} did not start", hint=f"see {self.log}")
        self.facts = said

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.child is not None and self.child.poll() is None

    def stop(self) -> None:
        """Ask it to stop; kill it if it does not."""
        if self.child is None:
            return
        with contextlib.suppress(OSError):
            self.child.stdin.close()  # type: ignore[union-attr]
        try:
            self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.child.stdin, self.child.stdout) if self.child is not None else ():
            if pipe is not None:
                pipe.close()

    def kill(self) -> None:
        """Kill it now."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()


@dataclass(slots=True)
class Service:
    """A running embedded service."""

    home: Path
    url: str
    processes: list[Process]
    runtime: Path
    locks: tuple[int, ...]

    def process(self, name: str) -> Process:
        """The process of this name."""
        return next(item for item in self.processes if item.name == name)

    def tend(self) -> list[str]:
        """Start again what has died; returns the names. Raises `Unavailable` for what dies again and again."""
        revived = []
        for process in self.processes:
            if process.alive:
                continue
            now = time.monotonic()
            process.ends = [at for at in process.ends if now - at < RESTART_WINDOW] + [now]
            if len(process.ends) > RESTARTS:
                raise Unavailable(f"the {process.name} keeps dying", hint=f"see {process.log}")
            process.start()
            revived.append(process.name)
        return revived

    def stop(self) -> None:
        """Stop everything, the trusted processes first, so that they can still write."""
        for process in reversed(self.processes):
            process.stop()
        _remove_runtime(self.runtime, self.locks)


def _remove_runtime(runtime: Path, locks: tuple[int, ...]) -> None:
    shutil.rmtree(runtime, ignore_errors=True)
    for lock in locks:
        os.close(lock)


def _lock(folder: Path) -> tuple[int, int]:
    """The launcher's own lock, and one that every process of the service holds too until it has ended.

    Raises `Conflict` at once when another launcher lives, and when the processes of one that was killed do not end.
    """
    mine = _flock(folder / "lock", 0.0)
    if mine is None:
        raise Conflict(
            f"a service runs in {folder} already",
            hint="use it, or choose another folder: `mesatee --home DIR up`",
        )
    theirs = _flock(folder / "processes.lock", LEFTOVER_SECONDS)
    if theirs is None:
        os.close(mine)
        raise Conflict(
            f"a process of the service that ran in {folder} does not end",
            hint="its launcher was killed: look for `mesatee.cli.processes` and `mesatee.host.server`",
        )
    return mine, theirs


def _flock(path: Path, seconds: float) -> int | None:
    """The locked file, or None when it is still another's after `seconds`."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                return None
            time.sleep(0.05)
        else:
            return fd


def _new_runtime(folder: Path) -> Path:
    """A folder for sockets and configurations; that of a service that was killed is removed first."""
    note = folder / "runtime"
    with contextlib.suppress(FileNotFoundError):
        former = Path(note.read_text())
        # Only what we make ourselves is removed, wherever the note may point to.
        if former.parent == Path(tempfile.gettempdir()) and former.name.startswith(RUNTIME_PREFIX):
            shutil.rmtree(former, ignore_errors=True)
    runtime = Path(tempfile.mkdtemp(prefix=RUNTIME_PREFIX))
    _write(note, str(runtime))
    return runtime


class Founded(Model):
    """What an embedded service keeps of how it was founded."""

    origin: str
    level: Annotated[int, Field(ge=1, le=5)]
    attester: str = ""
    """As in `attesters`; empty in what older versions wrote, which knew one for each of the levels 1 and 2."""
    tpm: str = ""
    port: int
    platform_policy: str
    worker_trust: str
    environment: str
    succession: SuccessionRules = SuccessionRules()

    @property
    def chosen(self) -> str:
        """The attester's name."""
        return self.attester or (attesters.NONE if self.level == 1 else attesters.SOFTWARE)


def _founding(
    folder: Path,
    choice: attesters.Choice,
    tpm: str,
    port: int,
    platform_policy: str | None,
    succession: SuccessionRules | None,
    say: Callable[[str], None],
    endorsements: Endorsements,
) -> Founded:
    path = folder / "founded.json"
    if path.exists():
        found = validate(Founded, parse_object(path.read_bytes()[: limits.REQUEST_BYTES]), path.name)
        same = (found.chosen, found.level) == (choice.name, choice.level)
        if (
            not same
            or (platform_policy is not None and platform_policy != found.platform_policy)
            or (succession is not None and succession != found.succession)
        ):
            raise Conflict(
                f"this service was founded with another level, platform policy or rules of succession: "
                f"attester {found.chosen}, "
                f"level {found.level}",
                hint="start it as it was, or found a new one: `mesatee --home DIR up`",
            )
        return found.model_copy(update={"tpm": tpm})
    say("measuring this installation")
    return Founded(
        origin=f"mesatee.local/{secrets.token_hex(8)}",
        level=choice.level,
        attester=choice.name,
        tpm=tpm,
        port=port,
        platform_policy=platform_policy or DEFAULT_PLATFORM_POLICY,
        worker_trust=TrustPolicy(
            worker=attesters.trust(choice.name, folder, (ENVIRONMENT,), tpm, endorsements)
        ).to_toml(),
        environment=environment_digest(ENVIRONMENT),
        succession=succession or SuccessionRules(),
    )


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)


def start(
    home: Path,
    *,
    level: int | None = None,
    attester: str | None = None,
    tpm: str = "",
    port: int = 0,
    platform_policy: str | None = None,
    succession: SuccessionRules | None = None,
    environ: dict[str, str] | None = None,
    with_worker: bool = True,
    lease_seconds: int = LEASE_SECONDS,
    say: Callable[[str], None] = lambda text: None,
) -> Service:
    """Start the embedded service in ``home/service`` and write ``trust.toml`` and ``service.toml`` to `home`.

    `level`, `attester` and `tpm` as in `attesters.choose`. `environ` is added to the environment of gateway and worker.
    Without a worker, tasks wait. Raises `Conflict` if one runs there already, and what `attesters` raises.
    """
    if platform_policy is not None:
        # Before anything is written: a service never changes the rules that it was founded on.
        PolicySet.register(platform_policy, "platform")
        classes.warn(platform_policy)
    folder = home / "service"
    for path in (home, folder, folder / "host", folder / "enclave", folder / "log"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    locks = _lock(folder)
    runtime = _new_runtime(folder)
    processes: list[Process] = []
    try:
        choice = attesters.choose(attester, level, tpm)
        # Before anything is quoted: the software is part of what this machine's evidence is of.
        attesters.record(choice.name, tpm, (ENVIRONMENT,))
        endorsements = Store(home).load()
        founded = _founding(folder, choice, tpm, port, platform_policy, succession, say, endorsements)
        # Before the gateway founds its service on it: a start that is killed in between can then be repeated.
        _write(folder / "founded.json", founded.model_dump_json())
        gateway_trust = attesters.trust(choice.name, folder, (), tpm, endorsements)
        worker_trust = TrustPolicy.from_toml(founded.worker_trust).worker
        base = ProcessConfig(
            folder=str(folder),
            host_socket=str(runtime / "host.sock"),
            origin=founded.origin,
            listen_host=LISTEN_HOST,
            listen_port=port or founded.port,
            attester=choice.name,
            tpm=tpm,
            home=str(home),
            platform_policy=founded.platform_policy,
            worker_trust=founded.worker_trust,
            gateway_trust=TrustPolicy().to_toml(),
            lease_seconds=lease_seconds,
            succession=founded.succession,
        )
        python = [sys.executable, "-I"]
        host = Process(
            "host",
            [
                *python,
                *("-B", "-m", "mesatee.host.server"),
                "--lifeline",
                *("--socket", base.host_socket),
                *("--data", str(folder / "host")),
            ],
            folder / "log" / "host.log",
            ALLOCATOR,
            holds=locks[1:],
        )
        gateway = Process(
            "gateway",
            [*python, *bytecode.options(runtime), *("-m", MODULE, "gateway", str(runtime / "gateway.json"))],
            folder / "log" / "gateway.log",
            {**ALLOCATOR, **(environ or {})},
            locks[1:],
        )
        worker = Process(
            "worker",
            [
                *python,
                *bytecode.options(runtime, writes=False),
                *("-m", MODULE, "worker", str(runtime / "worker.json")),
            ],
            folder / "log" / "worker.log",
            environ or {},
            locks[1:],
        )
        say("starting the host process")
        processes.append(host)
        host.start()
        say("starting the gateway")
        _write(runtime / "gateway.json", base.model_dump_json())
        processes.append(gateway)
        gateway.start()
        port = int(gateway.facts["port"])
        _write(folder / "founded.json", founded.model_copy(update={"port": port}).model_dump_json())
        trust = _client_trust(gateway_trust, worker_trust, founded.origin, gateway.facts)
        fixed = base.model_copy(update={"listen_port": port, "gateway_trust": trust.to_toml()})
        _write(runtime / "gateway.json", fixed.model_dump_json())
        _write(runtime / "worker.json", fixed.model_dump_json())
        _write(home / "trust.toml", trust.to_toml())
        url = f"https://{LISTEN_HOST}:{port}"
        write_service_file(
            home,
            url=url,
            trust=Path("trust.toml"),
            workers=list(worker_trust.measurements) if worker_trust.measurements != "any" else ["none"],
            environment=founded.environment,
            tees=list(worker_trust.tees),
            level=choice.level,
        )
        if with_worker:
            say("starting the worker")
            processes.append(worker)
            worker.start()
        return Service(home, url, processes, runtime, locks)
    except BaseException:
        for process in reversed(processes):
            process.stop()
        _remove_runtime(runtime, locks)
        raise


def _client_trust(gateway: RoleTrust, worker: RoleTrust, origin: str, facts: dict[str, Any]) -> TrustPolicy:
    log_key, service = facts.get("log_key"), facts.get("service")
    if not isinstance(log_key, str) or not isinstance(service, str):
        raise Malformed("the gateway did not say its log key and service statement")
    return TrustPolicy(
        gateway=GatewayTrust(
            tees=gateway.tees,
            minimum_level=gateway.minimum_level,
            measurements=gateway.measurements,
            installation_keys=gateway.installation_keys,
            anchors=gateway.anchors,
            allow_simulated=gateway.allow_simulated,
            log_origin=origin,
            log_key=log_key,
            service=(service,),
        ),
        worker=worker,
    )


@contextlib.contextmanager
def running(home: Path, **options: Any) -> Iterator[Service]:
    """An embedded service for the length of a with block; what dies is started again."""
    service = start(home, **options)
    over = threading.Event()

    def tend() -> None:
        while not over.wait(0.2):
            with contextlib.suppress(MesateeError):
                service.tend()

    keeper = threading.Thread(target=tend, name="tend", daemon=True)
    keeper.start()
    try:
        yield service
    finally:
        over.set()
        keeper.join()
        service.stop()


def _policy_text(path: Path) -> str:
    try:
        return files.read(path, limits.POLICY_BYTES, "platform policy").decode()
    except UnicodeDecodeError:
        raise Malformed(
            f"the platform policy {path} is not UTF-8", hint="docs/policy.md has the schema and examples"
        ) from None


def run(
    home: Path,
    *,
    level: int | None,
    attester: str | None,
    tpm: str,
    port: int,
    platform_policy: Path | None,
    succession: Path | None = None,
    with_worker: bool = True,
    as_json: bool,
) -> None:
    """`mesatee up`: start, say where, and stay until Ctrl-C or SIGTERM."""
    if level is not None and level not in LEVELS:
        raise Malformed(f"a level is {min(LEVELS)} to {max(LEVELS)}")
    text = _policy_text(platform_policy) if platform_policy else None
    rules = None
    if succession:
        data = files.read(succession, limits.STATEMENT_BYTES, "the rules of succession")
        rules = validate(SuccessionRules, parse_object(data), succession.name)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    service = start(
        home,
        level=level,
        attester=attester,
        tpm=tpm,
        port=port,
        platform_policy=text,
        succession=rules,
        with_worker=with_worker,
        say=say,
    )
    try:
        file = read_service_file(home)
        proven = file.level if file is not None else 1
        simulated = read_trust(home / "trust.toml").worker.allow_simulated
        facts = {
            "url": service.url,
            "trust": str(home / "trust.toml"),
            "service": service.process("gateway").facts["service"],
            "log_key": service.process("gateway").facts["log_key"],
            "level": proven,
            "tees": list(file.tees) if file is not None else [],
            "simulated": simulated,
        }
        halted = service.process("gateway").facts.get("halted")
        if halted:
            say(f"The gateway serves NOBODY: {halted}. Start it on the storage that it had.")
        if as_json:
            print(json.dumps({"event": "ready", **facts, "halted": halted}), flush=True)
        else:
            print(f"MesaTEE serves at {service.url}, level {proven} ({LEVELS[proven]}).")
            if simulated:
                print("Its hardware is SIMULATED: it protects nothing, and the trust file says so.")
            print(f"Give your parties service.toml and trust.toml of {home}, by a way that you both trust;")
            print(
                f"they put both into their own {HOME_SHOWN}. It is the loopback address: bring them a tunnel."
            )
            print("Stop with Ctrl-C.", flush=True)
        while not stopped.wait(0.5):
            for name in service.tend():
                say(f"the {name} had died and was started again")
    finally:
        say("stopping")
        service.stop()


__all__ = ["Process", "Service", "run", "running", "start"]
