"""Set intersection, from CSV to CSV: `psi` in a sandboxed child and through the whole platform, against protocols
without an enclave (RR22 of SPU, ECDH of openmined-psi) and against polars, which hides nothing.

Each side has n integers in random order, half of them in common. Ours in a child: two files are read into sealed memory
files, a waiting child runs the function on them, the output is written to a file. Through the platform: from the signed
run statement to the verified and opened result on disk; the owners' files were sealed and stored before. Peers read the
same files and write theirs; SPU is two processes that talk over this machine's loopback interface, started before.
SPU and openmined-psi get an environment of their own, which is made once, by pip, in the cache folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import secrets
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ... import _core
from ..._core import oblivious_match
from ...enclave.functions._keys import prepare, to_rows, widest
from ...enclave.sandbox.protocol import Job, Limits, OutputSpec
from ...enclave.sandbox.supervisor import Supervisor
from ...errors import NotFound, ReceiptInvalid, SandboxFailed, Unavailable
from ...party import data, functions, results, tasks
from ...party.config import read_service_file, read_trust
from ...party.identity import Identity
from ...party.session import Session
from ...protocol import limits, statements
from ...table import Table
from .. import up
from .packages import environment
from .rows import Goal, Row, Say, compare

POWERS, QUICK_POWERS = (16, 18, 20, 22), (12, 14)
ROUNDS: Final = {16: 7, 18: 5, 20: 5, 22: 3}
QUICK_ROUNDS: Final = 2
SETTLE_SECONDS: Final = 0.3
"""Before each measurement, ours or a peer's: what ran before is taken down, and the next child waits."""
ROUNDS_BETWEEN: Final = 3
"""Of sizes between those that are compared, which the exponent is fitted to as well."""
SLOW_POWER: Final = 16
"""openmined-psi needs minutes beyond."""
SPU, OPENMINED, POLARS = "SPU RR22", "openmined-psi", "polars"
PACKAGES: Final = {"spu": "spu==0.9.5", "openmined-psi": "openmined-psi==2.0.6"}
RUN_LIMITS: Final = {"seconds": 600, "cpu_seconds": 600, "memory_bytes": 6 * limits.GIB}
OBLIVIOUS_GOAL: Final = Goal("at least 10 times faster", ratio_at_most=0.1)
PLATFORM_GOAL: Final = Goal("at least 5 times faster", ratio_at_most=0.2)
MEMORY_GOAL: Final = Goal("no more than the peer", ratio_at_most=1.0)
EXPONENT_MARGIN: Final = 0.15
EXPONENTS: Final = tuple(number / 200 for number in range(80, 321))
"""Those that are tried."""
FROM_CSV: Final = (
    "from CSV to CSV; reading and writing is linear, and starting a run costs the same for any size"
)
BESIDE: Final = (
    "of start + c (n log^2 n)^e, from CSV to CSV: the growth without what a run costs whatever its size"
)
ALONE: Final = "processor time of the matching alone, on one thread, without reading and writing tables"
GOAL_POWER: Final = 20

SPU_SCRIPT: Final = """\
import json, resource, sys, time
from spu import libspu, psi
rank, ports, folder = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3]
described = libspu.link.Desc()
described.recv_timeout_ms = 600_000
for number, port in enumerate(ports):
    described.add_party(f"p{number}", f"127.0.0.1:{port}")
context = libspu.link.create_brpc(described, rank)
for line in sys.stdin:
    power, out = line.split()
    begun = time.monotonic()
    report = psi.psi_execute(psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(protocol=psi.PsiProtocol.PROTOCOL_RR22, receiver_rank=0),
        input_params=psi.InputParams(path=f"{folder}/{rank}.{power}.csv", selected_keys=["id"], keys_unique=True),
        output_params=psi.OutputParams(path=out),
    ), context)
    said = {"seconds": time.monotonic() - begun, "common": report.intersection_count,
            "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    print("RESULT " + json.dumps(said), flush=True)
"""
OPENMINED_SCRIPT: Final = """\
import csv, json, resource, sys, time
import private_set_intersection.python as psi
begun = time.monotonic()
sides = []
for path in sys.argv[1:3]:
    with open(path, newline="") as file:
        sides.append([row[0] for row in csv.reader(file)][1:])
client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
setup = server.CreateSetupMessage(1e-9, len(sides[0]), sides[1], psi.DataStructure.RAW)
found = client.GetIntersection(setup, server.ProcessRequest(client.CreateRequest(sides[0])))
with open(sys.argv[3], "w") as file:
    file.write("id\\n")
    file.writelines(f"{sides[0][number]}\\n" for number in sorted(found))
said = {"seconds": time.monotonic() - begun, "common": len(found),
        "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
print("RESULT " + json.dumps(said), flush=True)
"""


def files(folder: Path, power: int) -> tuple[Path, Path]:
    """The two sides' CSV files with 2^power rows each."""
    size, rng = 1 << power, random.Random(power)  # noqa: S311  the same files each time
    found = []
    for side in range(2):
        path = folder / f"{side}.{power}.csv"
        if not path.exists():
            rows = list(range(side * size // 2, side * size // 2 + size))
            rng.shuffle(rows)
            # One to one on 40 bits, so that neighbours are none.
            path.write_text("id\n" + "".join(f"{row * 0x9E3779B1 % (1 << 40)}\n" for row in rows))
        found.append(path)
    return found[0], found[1]


class Rr22:
    """SPU's two processes, which wait for sizes."""

    def __init__(self, folder: Path, python: Path, stack: contextlib.ExitStack) -> None:
        ports = ",".join(map(str, _free_ports(2)))
        self._folder = folder
        self._sides = [
            subprocess.Popen(
                [str(python), "-c", SPU_SCRIPT, str(rank), ports, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # It leaves traces where it stands.
                cwd=folder,
                text=True,
            )
            for rank in range(2)
        ]
        for side in self._sides:
            stack.callback(side.wait)
            stack.callback(side.kill)

    def __call__(self, power: int) -> dict[str, Any]:
        """Seconds of the slower side, rows in common, and KiB of both. Raises `Unavailable`."""
        time.sleep(SETTLE_SECONDS)
        for rank, side in enumerate(self._sides):
            if side.stdin is None:
                raise AssertionError
            side.stdin.write(f"{power} {self._folder}/spu.{rank}.csv\n")
            side.stdin.flush()
        said = [_result(side) for side in self._sides]
        return {
            "seconds": max(item["seconds"] for item in said),
            "common": said[0]["common"],
            "kib": sum(item["kib"] for item in said),
        }


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    for line in process.stdout or ():
        # Its library writes there, too.
        if line.startswith("RESULT "):
            found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
            return found
    raise Unavailable(f"the peer ended with {process.wait()}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            listening = stack.enter_context(socket.socket())
            listening.bind(("127.0.0.1", 0))
            found.append(int(listening.getsockname()[1]))
        return found


def openmined(python: Path, folder: Path, power: int) -> dict[str, Any]:
    """ECDH in one process that plays both sides. Raises `Unavailable`."""
    command = [
        str(python),
        "-c",
        OPENMINED_SCRIPT,
        *map(str, files(folder, power)),
        f"{folder}/openmined.csv",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        return _result(process)


def with_polars(folder: Path, power: int) -> float:
    """Seconds of a hash join in this process."""
    import polars as pl

    left, right = files(folder, power)
    time.sleep(SETTLE_SECONDS)
    begun = time.monotonic()
    found = pl.read_csv(left).join(pl.read_csv(right), on="id", how="semi")
    found.write_csv(folder / "polars.csv")
    return time.monotonic() - begun


def ours(supervisor: Supervisor, folder: Path, power: int, leakage: str) -> tuple[float, int]:
    """Seconds, and the child's largest resident memory in bytes."""
    job = Job(
        "builtin",
        "psi",
        args={"key": "id", "leakage": leakage},
        inputs={"a": "csv", "b": "csv"},
        outputs={"result": OutputSpec("csv")},
        limits=Limits(**RUN_LIMITS),
    )
    result = folder / "ours.csv"
    time.sleep(SETTLE_SECONDS)
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        inputs = {}
        for name, path in zip("ab", files(folder, power), strict=True):
            inputs[name] = _core.memfd(name)
            stack.callback(os.close, inputs[name])
            _copy(path, inputs[name])
            _core.memfd_seal(inputs[name])
        outcome = stack.enter_context(supervisor.run(job, inputs))
        if outcome.failure is not None:
            raise SandboxFailed(f"the bench's function failed: {outcome.failure}: {outcome.diagnostics!r}")
        made = outcome.outputs["result"]
        with result.open("wb") as file:
            os.sendfile(file.fileno(), made.fd, 0, made.size)
    taken = time.monotonic() - begun
    rows = result.read_bytes().count(b"\n") - 1
    if rows != 1 << (power - 1):
        raise SandboxFailed(f"the bench's function found {rows} rows")
    return taken, outcome.usage.max_rss_bytes


def _copy(path: Path, to: int) -> None:
    with path.open("rb") as file:
        rest = os.fstat(file.fileno()).st_size
        while rest:
            rest -= os.sendfile(to, file.fileno(), None, rest)


def matching(folder: Path, power: int) -> float:
    """Seconds of processor time of the oblivious matching alone, on one thread; the keys were read before."""
    import polars as pl

    sides = {
        name: Table(pl.read_csv(path).to_arrow())
        for name, path in zip("ab", files(folder, power), strict=True)
    }
    keys = list(prepare(sides, {name: ["id"] for name in sides}, []).values())
    rows = [to_rows(item, widest(keys)) for item in keys]
    begun = time.process_time()
    oblivious_match(rows, threads=1)
    return time.process_time() - begun


@dataclass(slots=True)
class Platform:
    """Two owners and a scientist on a service, with one task for each size."""

    folder: Path
    scientist: Session
    tasks: dict[int, str]

    @classmethod
    def found(cls, home: Path, folder: Path, powers: Sequence[int], stack: contextlib.ExitStack) -> Platform:
        """Register parties, data and tasks, and approve them."""
        service = read_service_file(home)
        if service is None:
            raise NotFound("the bench's service wrote no service file")
        people: dict[str, Session] = {}
        for name in ("left", "right", "scientist"):
            identity = Identity.create(home, name)
            people[name] = stack.enter_context(Session(service.url, identity, read_trust(service.trust)))
        functions.put_builtin(people["scientist"], "psi", "psi")
        accept = statements.Accept(
            min_level=service.level, tees=service.tees, workers=service.workers, allow_simulated=False
        )
        made = {}
        for power in powers:
            for name, path in zip(("left", "right"), files(folder, power), strict=True):
                session = people[name]
                sealed = data.seal(
                    session.identity, path.read_bytes(), folder / f"{name}.{power}.age", format="csv"
                )
                data.put(session, sealed, f"rows-{power}")
            posted = tasks.new(
                people["scientist"],
                f"psi-{power}",
                function="psi",
                inputs={"a": f"left/rows-{power}", "b": f"right/rows-{power}"},
                outputs={"result": ["scientist"]},
                accept=accept,
                environment=service.environment,
                arguments={"key": "id"},
                runs=20,
                run_limits=statements.RunLimits(**RUN_LIMITS),
            )
            for name in ("left", "right"):
                tasks.approve(people[name], tasks.review(people[name], people[name].task(posted.digest)))
            made[power] = posted.digest
        return cls(folder, people["scientist"], made)

    def run(self, power: int) -> float:
        """Seconds from invoking to the verified result on disk."""
        time.sleep(SETTLE_SECONDS)
        begun = time.monotonic()
        task = self.tasks[power]
        posted = tasks.run(self.scientist, self.scientist.task(task))
        tasks.watch(self.scientist, task, posted.digest, seconds=600)
        found = results.take(
            self.scientist, self.scientist.task(task), self.folder / secrets.token_hex(8), posted.digest
        )
        taken = time.monotonic() - begun
        if found.outputs["result"].read_bytes().count(b"\n") - 1 != 1 << (power - 1):
            raise ReceiptInvalid("the intersection is another one")
        return taken


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench psi``."""
    powers = QUICK_POWERS if quick else POWERS
    rows: list[Row] = []
    times: dict[int, float] = {}
    alone: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peers, missing = _peers(folder, say, stack)
        home = folder / "home"
        home.mkdir(mode=0o700)
        stack.enter_context(up.running(home, say=say))
        say("registering parties, data and tasks")
        platform = Platform.found(home, folder, powers, stack)
        supervisor = stack.enter_context(Supervisor())
        ours(supervisor, folder, powers[0], "oblivious")
        for power in range(powers[0], powers[-1] + 1):
            if power not in powers:
                say(f"2^{power} a side, for the growth alone")
                between = [ours(supervisor, folder, power, "oblivious")[0] for _ in range(ROUNDS_BETWEEN)]
                times[power] = statistics.median(between)
                continue
            found = _size(power, quick, folder, supervisor, platform, peers, say)
            times[power] = statistics.median(found.oblivious)
            alone[power] = statistics.median(found.matching)
            rows += found.rows(power, missing)
    if not quick:
        whole, matching_alone, (grown, start) = slope(times), slope(alone), growth(times)
        rows += [
            _exponent("exponent against n log^2 n", whole, len(times), FROM_CSV),
            _exponent("exponent of the matching against n log^2 n", matching_alone, len(alone), ALONE),
            Row("exponent beside a start", "", grown, n=len(times), note=BESIDE),
            Row(
                "that start",
                "ms",
                start * 1e3,
                n=len(times),
                note="what the fit takes a run to cost whatever its size",
            ),
        ]
    return tuple(rows)


def _peers(
    folder: Path, say: Say, stack: contextlib.ExitStack
) -> tuple[dict[str, Callable[[int], dict[str, Any]]], dict[str, str]]:
    """The peers that can be had, and why others cannot."""
    peers: dict[str, Callable[[int], dict[str, Any]]] = {}
    missing: dict[str, str] = {}
    try:
        peers[SPU] = Rr22(folder, environment(PACKAGES["spu"], say), stack)
    except Unavailable as error:
        missing[SPU] = error.message
    try:
        python = environment(PACKAGES["openmined-psi"], say)
        peers[OPENMINED] = lambda power: openmined(python, folder, power)
    except Unavailable as error:
        missing[OPENMINED] = error.message
    return peers, missing


@dataclass(slots=True)
class _Sizes:
    """Seconds of each round, and MiB."""

    oblivious: list[float]
    hashed: list[float]
    platform: list[float]
    rr22: list[float]
    ecdh: list[float]
    polars: list[float]
    memory: list[float]
    matching: list[float]
    rr22_memory: list[float]

    def rows(self, power: int, missing: dict[str, str]) -> list[Row]:
        """The rows of one size."""
        held = power >= GOAL_POWER
        size = f"2^{power}"
        lacking = missing.get(SPU, "")
        found = [
            compare(
                f"oblivious {size}",
                "s",
                self.oblivious,
                self.rr22,
                peer_name=SPU,
                goal=OBLIVIOUS_GOAL if power == GOAL_POWER else None,
                note=lacking,
            ),
            compare(f"oblivious {size}, against polars", "s", self.oblivious, self.polars, peer_name=POLARS),
            compare(f"access-pattern {size}", "s", self.hashed, self.polars, peer_name=POLARS),
            compare(
                f"platform oblivious {size}",
                "s",
                self.platform,
                self.rr22,
                peer_name=SPU,
                goal=PLATFORM_GOAL if power == GOAL_POWER else None,
                note=lacking or "sealed in, sealed out, attested, receipt verified",
            ),
            compare(
                f"peak memory {size}",
                "MiB",
                self.memory,
                self.rr22_memory,
                peer_name=SPU,
                goal=MEMORY_GOAL if held else None,
                note="of the child, interpreter included; of the peer both processes, the largest so far",
            ),
        ]
        if power <= SLOW_POWER:
            found.append(
                compare(
                    f"oblivious {size}, against ECDH",
                    "s",
                    self.oblivious,
                    self.ecdh,
                    peer_name=OPENMINED,
                    note=missing.get(OPENMINED, ""),
                )
            )
        return found


def _size(
    power: int,
    quick: bool,
    folder: Path,
    supervisor: Supervisor,
    platform: Platform,
    peers: dict[str, Callable[[int], dict[str, Any]]],
    say: Say,
) -> _Sizes:
    """All of one size, taking turns."""
    found = _Sizes([], [], [], [], [], [], [], [], [])
    rounds = QUICK_ROUNDS if quick else ROUNDS[power]
    for number in range(rounds):
        say(f"2^{power} a side, round {number + 1} of {rounds}")
        seconds, memory = ours(supervisor, folder, power, "oblivious")
        found.oblivious.append(seconds)
        found.memory.append(memory / limits.MIB)
        if SPU in peers:
            said = peers[SPU](power)
            found.rr22.append(said["seconds"])
            found.rr22_memory.append(said["kib"] / limits.KIB)
        found.matching.append(matching(folder, power))
        found.polars.append(with_polars(folder, power))
        found.hashed.append(ours(supervisor, folder, power, "access-pattern")[0])
        found.platform.append(platform.run(power))
        if OPENMINED in peers and power <= SLOW_POWER and number == 0:
            found.ecdh.append(peers[OPENMINED](power)["seconds"])
    return found


def _work(power: int) -> int:
    """n log^2 n, without a unit."""
    return power**2 << power


def slope(times: dict[int, float]) -> float:
    """The slope of log time over log n log^2 n, of seconds by power of two."""
    points = [(math.log(_work(power)), math.log(seconds)) for power, seconds in times.items()]
    middle: list[float] = [sum(column) / len(points) for column in zip(*points, strict=True)]
    away = [(x - middle[0], y - middle[1]) for x, y in points]
    return sum(x * y for x, y in away) / sum(x * x for x, _ in away)


def growth(times: dict[int, float]) -> tuple[float, float]:
    """The exponent e and the start, in seconds, of start + c (n log^2 n)^e that fit seconds by power of two best.

    By least squares of relative errors; the start is not negative. A run costs something whatever its size, which
    without a term of its own would be taken for slow growth.
    """
    import numpy as np

    seconds = np.array(list(times.values()))
    work = np.array([float(_work(power)) for power in times])
    best, found = math.inf, (math.nan, math.nan)
    for exponent in EXPONENTS:
        grown = (work / work.max()) ** exponent
        terms = np.stack([np.ones_like(grown), grown], axis=1) / seconds[:, None]
        (start, factor), *_ = np.linalg.lstsq(terms, np.ones_like(grown))
        if start < 0:
            start, factor = 0.0, terms[:, 1].sum() / (terms[:, 1] ** 2).sum()
        off = (start + factor * grown) / seconds - 1
        if (error := float(off @ off)) < best:
            best, found = error, (exponent, float(start))
    return found


def _exponent(metric: str, exponent: float, n: int, note: str) -> Row:
    return Row(
        metric,
        "",
        exponent,
        n=n,
        goal=f"within {EXPONENT_MARGIN} of 1",
        met=abs(exponent - 1) <= EXPONENT_MARGIN,
        note=note,
    )


__all__ = ["growth", "measure", "slope"]
