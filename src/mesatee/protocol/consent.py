"""Who has to agree to a task. Gateway and verifier must never differ on this, so it stands here once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .statements import FunctionStatement, TaskStatement


def must_approve(
    task: TaskStatement, owners: Mapping[str, Collection[str]], function: tuple[str, FunctionStatement] | None
) -> dict[str, str]:
    """Party -> why it has to approve: owners of inputs, receivers of joint outputs, the owner of private code.

    `owners` maps inputs to their owners: of a dataset one, of another task's output all of its receivers. `function` is
    its owner and statement, None where it cannot be read.
    """
    needed: dict[str, str] = {}
    for name, parties in owners.items():
        for owner in parties:
            needed.setdefault(owner, f"owns input {name}")
    for name, receivers in task.outputs.items():
        if len(receivers) > 1:
            for keys in receivers:
                needed.setdefault(keys.signing, f"receives joint output {name}")
    if function is not None and function[1].private:
        needed.setdefault(function[0], "owns the private function")
    return needed


__all__ = ["must_approve"]
