"""The functions that are part of MesaTEE. They keep to the contract that every function keeps to.

>>> from mesatee.enclave import functions
>>> "psi" in functions.names()
True
>>> functions.find("psi").signature.open_inputs
'table'
"""

from mesatee.enclave.functions._scratch import give_scratch
from mesatee.enclave.functions._threads import give_threads
from mesatee.enclave.functions.registry import Builtin, find, names

__all__ = ["Builtin", "find", "give_scratch", "give_threads", "names"]
