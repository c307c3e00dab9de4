"""What the codes of the closed list of failures mean, in words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bad_argument": "an argument does not fit the function",
        "bad_input": "an input is not of its format, or the function says that it is wrong",
        "cancelled": "the author or an owner stopped it, or an approval was withdrawn",
        "crashed": "the child ended without a proper report",
        "function_raised": "the function, or the top level of its module, raised an exception",
        "input_missing": "another task's output was never made, or no dataset of the name is in use",
        "input_corrupt": "the stored ciphertext or code is not what its digest says, or does not open",
        "out_of_cpu": "over the processor time that the task allows, or the fuel of the module's contract",
        "out_of_memory": "over the memory that the task allows",
        "out_of_time": "over the wall-clock time that the task allows, or the seconds of the module's contract",
        "output_too_large": "an output, or all together, are over the size that the task allows",
        "withheld": "an output is none that the protection of a dataset lets out",
        "worker_lost": "all attempts are spent and none ended with a receipt",
        "wrong_output": "the function returned something that is not its declared output",
    }
)
"""What each failure code of `statements.FAILURES` means."""

__all__ = ["MEANINGS"]
