"""The benches: what they print, and that each of them runs."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import shutil
import statistics
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from mesatee.cli import bench
from mesatee.cli.bench import gateway, invoke, loadgen, peers, rows, spawn
from mesatee.enclave.sandbox import Supervisor, sealed_memfd
from mesatee.errors import Denied, InputError, NotFound, Unavailable

FIELDS = {
    "metric",
    "unit",
    "ours",
    "peer",
    "peer_name",
    "ratio",
    "n",
    "spread",
    "goal",
    "met",
    "note",
}
samples = st.lists(st.floats(min_value=1e-3, max_value=1e6), min_size=1, max_size=30)


def test_the_reason_of_a_failed_build_is_its_first_error() -> None:
    """What was shown was the last line of a backtrace."""
    said = b"warning: x\nerror: linker `cc` not found\n  |\nstack backtrace:\n  13: <unknown>\n"
    assert loadgen._reason(said) == "error: linker `cc` not found"
    assert loadgen._reason(b"one\ntwo\n") == "two"
    assert loadgen._reason(b"") == "no reason given"


@given(ours=samples, peer=samples)
def test_a_row_holds_medians_and_their_ratio(ours: list[float], peer: list[float]) -> None:
    row = rows.compare("m", "ms", ours, peer, peer_name="p")
    assert row.ours == statistics.median(ours)
    assert row.peer == statistics.median(peer)
    assert row.ratio == pytest.approx(statistics.median(ours) / statistics.median(peer))
    assert row.n == len(ours)
    assert row.met is None


@given(ours=samples)
def test_spread_is_the_interquartile_range_over_the_median(ours: list[float]) -> None:
    found = rows.spread(ours)
    if len(ours) < 4:
        assert found is None
    else:
        low, _, high = statistics.quantiles(ours, n=4, method="inclusive")
        assert found == pytest.approx((high - low) / statistics.median(ours))


def test_spread_does_not_depend_on_the_unit() -> None:
    some = [1.0, 2.0, 3.0, 4.0, 10.0]
    assert rows.spread(some) == pytest.approx(rows.spread([1_000 * item for item in some]))
    assert rows.spread([0.0] * 5) is None


def test_a_missing_peer_is_a_row_that_no_goal_is_held_against() -> None:
    row = rows.compare("m", "ms", [1.0], (), peer_name="p", goal=spawn.READY_GOAL, note="no peer: why")
    assert (row.peer, row.ratio, row.met) == (None, None, None)
    assert row.goal == spawn.READY_GOAL.text
    assert "cannot be judged" in rows.table([row])


def test_nothing_measured_is_no_row() -> None:
    with pytest.raises(InputError):
        rows.compare("m", "ms", [])


@pytest.mark.parametrize(
    ("goal", "ours", "ratio", "met"),
    [
        (rows.Goal("g", ours_at_most=2.0, ratio_at_most=0.8), 2.0, 0.8, True),
        (rows.Goal("g", ours_at_most=2.0, ratio_at_most=0.8), 2.1, 0.5, False),
        (rows.Goal("g", ours_at_most=2.0, ratio_at_most=0.8), 1.0, 0.81, False),
        (rows.Goal("g", ours_at_most=2.0, ratio_at_most=0.8), 1.0, None, None),
        (rows.Goal("g", ours_at_most=2.0, ratio_at_most=0.8), 3.0, None, False),
        (rows.Goal("g", ratio_at_least=0.15), 1.0, 0.15, True),
        (rows.Goal("g", ratio_at_least=0.15), 1.0, 0.14, False),
        (rows.Goal("g"), 1.0, 1.0, None),
    ],
)
def test_a_goal_is_met_when_all_of_its_bounds_hold(
    goal: rows.Goal, ours: float, ratio: float | None, met: bool | None
) -> None:
    assert goal.met(ours, ratio) is met


def test_the_json_form_is_that_of_the_design() -> None:
    row = rows.compare("m", "1/s", [1.23456789] * 4, [2.0], peer_name="p", goal=gateway.RATIO_GOAL)
    found = json.loads(json.dumps(rows.report("gateway", [row], {"quick": True})))
    assert set(found) == {"name", "version", "machine", "rows"}
    assert set(found["rows"][0]) == FIELDS
    assert found["rows"][0]["ours"] == 1.235
    assert found["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert found["machine"]["quick"] is True


def test_the_table_says_whether_a_goal_is_met() -> None:
    good = rows.compare("m", "ms", [1.0], [10.0], peer_name="p", goal=spawn.READY_GOAL)
    bad = rows.compare("m", "ms", [10.0], [10.0], peer_name="p", goal=spawn.READY_GOAL)
    assert ": met" in rows.table([good])
    assert "NOT met" in rows.table([bad])


def test_the_packages_example_runs() -> None:
    assert doctest.testmod(bench).failed == 0
    assert bench.__all__ == sorted(bench.__all__)


def test_every_bench_has_a_module() -> None:
    for name in bench.BENCHES:
        assert callable(importlib.import_module(f"mesatee.cli.bench.{name}").measure)


def test_an_unknown_bench_is_named() -> None:
    with pytest.raises(NotFound, match="nonsense"):
        bench.run("nonsense", True, True)


def test_requests_are_framed_for_the_load_generator() -> None:
    framed = gateway.request(b"body")
    assert int.from_bytes(framed[:4], "big") == len(framed) - 4
    head, _, body = framed[4:].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/statements HTTP/1.1\r\n")
    assert b"Content-Length: 4" in head
    assert body == b"body"


def test_a_load_with_refused_requests_is_no_measurement() -> None:
    said = {"requests": 10, "refused": 0, "seconds": 2.0, "p50": 0.001, "p95": 0.002}
    assert gateway.Load.of(said).rate == 5.0
    with pytest.raises(Denied):
        gateway.Load.of(said | {"refused": 1})


def test_a_load_generator_that_fails_says_why(tmp_path: Path) -> None:
    script = tmp_path / "fails"
    script.write_text("#!/bin/sh\necho first >&2\necho the reason >&2\nexit 1\n")
    script.chmod(0o700)
    with pytest.raises(Unavailable, match="the reason"):
        loadgen.run(script, "age", 1)


def test_the_peers_certificates_verify(tmp_path: Path) -> None:
    files = peers.certificates(tmp_path)
    issuer = x509.load_pem_x509_certificate(Path(files.ca).read_bytes())
    for name in ("server", "client"):
        x509.load_pem_x509_certificate(Path(files.certificate(name)).read_bytes()).verify_directly_issued_by(
            issuer
        )
        assert Path(files.key(name)).stat().st_mode & 0o077 == 0


def test_a_server_that_does_not_start_is_said(tmp_path: Path) -> None:
    # There is no certificate in this folder.
    with pytest.raises(Unavailable), peers.server("tls", tmp_path):
        pass


def quick(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    bench.run(name, True, True)
    out, err = capsys.readouterr()
    assert err, "progress goes to standard error"
    found = json.loads(out)
    assert found["name"] == name
    for row in found["rows"]:
        assert set(row) == FIELDS
        assert row["ours"] > 0
        assert (row["peer"] is None) == (row["ratio"] is None)
    return {row["metric"]: row for row in found["rows"]}


@pytest.mark.e2e
def test_channel(capsys: pytest.CaptureFixture[str]) -> None:
    found = quick("channel", capsys)
    assert found["attested mutual, extra over TCP"]["peer_name"] == "Python ssl mutual"
    assert found["attested mutual, extra over TCP"]["met"] is not None
    assert "request on a kept connection" in found


@pytest.mark.e2e
def test_spawn(capsys: pytest.CaptureFixture[str]) -> None:
    row = quick("spawn", capsys)["ready with numpy"]
    assert row["peer_name"] == "bubblewrap + bare python"
    # Without bubblewrap the row is there and says why it has no peer.
    assert (row["peer"] is None) == ("no peer: " in str(row["note"]))
    assert "seccomp" in str(row["note"])


@pytest.mark.slow
def test_invoke(capsys: pytest.CaptureFixture[str]) -> None:
    found = quick("invoke", capsys)
    for executor in ("builtin", "python", "mesapy", "wasm"):
        trip, alone = found[f"round trip of {executor}"], found[f"{executor} in this process"]
        assert trip["peer_name"] == "bare python, started for the call"
        # The executor's own share is a part of the trip.
        assert 0 < alone["ours"] < trip["ours"]  # type: ignore[operator]
    assert found["hand over 100 MB"]["ratio"] is not None


def test_invoke_measures_what_it_says() -> None:
    """One of each, on every executor: the output is the input."""
    fd = sealed_memfd("data", invoke.INPUT)
    jobs = invoke.echoes()
    assert set(jobs) == {"builtin", "python", "mesapy", "wasm"}
    with Supervisor() as supervisor:
        for job in jobs.values():
            assert invoke.trip(supervisor, job, fd) > 0
    assert invoke.alone(invoke.compiled(jobs["wasm"]), fd) > 0
    assert invoke.alone(jobs["python"], fd) > 0
    assert invoke.bare() > 0
    os.close(fd)


@pytest.mark.slow
def test_wasm(capsys: pytest.CaptureFixture[str]) -> None:
    found = quick("wasm", capsys)
    rows = {"round trip", "cpu loop", "fib"}
    assert set(found) == rows | {f"{name}, with seconds" for name in rows}
    assert found["fib"]["peer_name"] == "native"
    assert (found["fib"]["peer"] is None) == ("no peer: " in str(found["fib"]["note"]))


@pytest.mark.slow
def test_seal(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"seal 256 MiB", "open 256 MiB"} <= set(quick("seal", capsys))


@pytest.mark.slow
@pytest.mark.e2e
def test_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    if loadgen.source_tree() is None or shutil.which("cargo") is None:
        pytest.skip("the load generator is built from the source tree by cargo")
    row = quick("gateway", capsys)["authorised and logged requests"]
    assert row["ratio"] is not None


@pytest.mark.slow
@pytest.mark.e2e
def test_task(capsys: pytest.CaptureFixture[str]) -> None:
    found = quick("task", capsys)
    parts = [row["ours"] for metric, row in found.items() if metric.startswith("part: ")]
    assert sum(parts) == pytest.approx(found["invoke to verified result, p50"]["ours"], rel=0.3)  # type: ignore[arg-type]
    assert all(row["peer"] is None for row in found.values())
