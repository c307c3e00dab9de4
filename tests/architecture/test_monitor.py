"""Nobody but the monitor, with its ledger, makes a permit, opens a key or writes the log (the second promise)."""

from __future__ import annotations

from tests.support.source import attributes, below, calls, imports, modules

GATEWAY = "enclave/gateway"
MONITOR = f"{GATEWAY}/monitor.py"
LEDGER = f"{GATEWAY}/ledger.py"
KEYRING = f"{GATEWAY}/keyring.py"
PERMIT = f"{GATEWAY}/permit.py"


def last(name: str) -> str:
    return name.rpartition(".")[2]


def callers(*names: str) -> set[str]:
    """Modules that call something whose last name is one of these."""
    return {module.place for module in modules() for name, _ in calls(module) if last(name) in names}


def importers(name: str) -> set[str]:
    return {module.place for module in modules() for item in imports(module) if item.name == name}


def test_only_the_monitor_has_a_mint() -> None:
    assert callers("Mint") == {LEDGER}
    assert importers("Mint") == {LEDGER}
    (ledger,) = below(LEDGER)
    assert [name for name, _ in calls(ledger) if last(name) == "Mint"] == ["Mint"]
    # The ledger is the part of the monitor that writes: nobody else has one.
    assert importers("Ledger") == {MONITOR}
    assert callers("Ledger") == set()


def test_only_the_mint_makes_permits() -> None:
    assert callers("Permit") == {PERMIT}
    assert callers("permit") == {MONITOR, LEDGER}
    for module in modules():
        for name, _ in calls(module):
            assert not name.endswith(("Permit.__new__", "Permit.__init__")), module.place
    # Whoever names the class at all, does so to take a permit as an argument.
    assert importers("Permit") == {KEYRING, f"{GATEWAY}/log.py"}


def test_nobody_reaches_into_a_permit() -> None:
    for module in below(GATEWAY):
        if module.place != PERMIT:
            assert "_used" not in attributes(module), module.place


def test_private_keys_are_used_in_the_keyring_only() -> None:
    private = {"unwrap_file_key", "unwrap_bytes", "import_sealed", "export_sealed"}
    for module in below(GATEWAY):
        used = attributes(module) & private
        # What succession imports comes from share holders; it is not on the way of any request.
        assert not used or module.place in (KEYRING, f"{GATEWAY}/succession.py"), (module.place, used)
    assert "unwrap_file_key" in attributes(*below(KEYRING))
    (succession,) = below(f"{GATEWAY}/succession.py")
    assert not attributes(succession) & {"export_sealed", "unwrap_file_key", "unwrap_bytes"}
    assert callers("split_key") == {KEYRING}


def test_key_handles_are_named_where_they_live_and_nowhere_else() -> None:
    homes = {
        "HpkeKey": {"identity.py", "keyring.py", "succession.py"},
        "FileKey": {"keyring.py"},
        # The audit opens the log, offline and with the operator's own keys; it releases nothing.
        "SecretKey": {
            "identity.py",
            "keyring.py",
            "log.py",
            "snapshots.py",
            "gateway.py",
            "audit.py",
            "succession.py",
        },
        "SigningKey": {"identity.py", "keyring.py", "log.py", "gateway.py", "succession.py"},
        "AgeKey": set(),
    }
    for key, places in homes.items():
        found = {item.path.name for item in below(GATEWAY) for one in imports(item) if one.name == key}
        assert found <= places, key


def test_the_sealing_key_leaves_identity_for_the_keyring_only() -> None:
    for module in below(GATEWAY):
        names = [name for name, _ in calls(module) if name.endswith(".unseal")]
        assert not names or module.path.name == "identity.py"
        if module.path.name not in ("keyring.py",):
            assert "_sealing" not in attributes(module), module.place
    (gateway,) = below(f"{GATEWAY}/gateway.py")
    assert "sealing" not in attributes(gateway)


def test_only_the_monitor_uses_the_keyrings_powers() -> None:
    powers = ("release_inputs", "release_outputs", "check_upload", "check_output", "read_ticket")
    assert callers(*powers) == {MONITOR}
    (monitor,) = below(MONITOR)
    for power in ("hand_over", "share_keys"):
        assert [name for name, _ in calls(monitor) if last(name) == power] == [f"self._keyring.{power}"]
    assert callers("share_keys") == {MONITOR}
    assert {place for place in callers("ticket") if place.startswith(GATEWAY)} == {MONITOR}


def test_only_the_monitor_appends_to_the_log() -> None:
    for module in below("enclave", "party", "cli"):
        for name, _ in calls(module):
            if last(name) == "append" and name.split(".")[-2].strip("_") == "log":
                assert module.place == LEDGER, (module.place, name)
    (log,) = below(f"{GATEWAY}/log.py")
    stores = [name for name, _ in calls(log) if name.endswith("_store.append")]
    assert stores
    for module in below(GATEWAY):
        if module is not log:
            assert "_store" not in attributes(module), module.place


def test_only_the_monitor_changes_the_state() -> None:
    """Replay applies what the log has; after that only what the monitor logs."""
    for module in below(GATEWAY):
        for name, _ in calls(module):
            if last(name) == "apply" and "state" in name:
                # The audit replays into a state of its own.
                assert module.path.name in ("ledger.py", "gateway.py", "audit.py"), (module.place, name)


def test_the_api_touches_no_key_and_no_keyring() -> None:
    (api,) = below(f"{GATEWAY}/api.py")
    assert not attributes(api) & {"_keyring", "_keys", "_mint", "release", "submit", "_append"}
    assert not {item.name for item in imports(api)} & {"Keyring", "Permit", "Mint", "Action"}


def test_every_power_takes_a_permit_first() -> None:
    import ast

    for place, exempt in ((KEYRING, {"read_ticket"}), (f"{GATEWAY}/log.py", set())):
        (module,) = below(place)
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            uses = {name for name, _ in calls(module._replace(tree=ast.Module([node], [])))}
            powerful = node.name == "append" or any(
                name.endswith(("_unwrap", "_open_sealed", "_tickets.seal", "wrap_to", "export_sealed"))
                for name in uses
            )
            if powerful and node.name not in exempt:
                assert node.args.args[1].arg == "permit", node.name
                assert "permit.use" in uses, node.name
