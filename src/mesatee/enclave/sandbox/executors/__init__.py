"""How a job becomes a call; these modules run in the sandboxed child.

>>> from mesatee.enclave.sandbox.executors import EXECUTORS
>>> sorted(EXECUTORS)
['builtin', 'python']
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mesatee.enclave.sandbox.executors import builtin, python
from mesatee.enclave.sandbox.executors.calling import Call, Failed, Load, execute, flush

EXECUTORS: Final[Mapping[str, Load]] = MappingProxyType({"builtin": builtin.load, "python": python.load})
"""Executor -> what turns a job into a call."""

__all__ = ["EXECUTORS", "Call", "Failed", "Load", "execute", "flush"]
