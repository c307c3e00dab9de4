"""Running a function on data in a locked-in child process (ADR 1 "The sandbox").

>>> from mesatee.enclave.sandbox import Job, Limits, OutputSpec
>>> job = Job(
...     "python",
...     "double",
...     code=b"def double(data: bytes) -> bytes:\\n    return data * 2\\n",
...     inputs={"data": "bytes"},
...     outputs={"result": OutputSpec("bytes", max_bytes=1024)},
...     limits=Limits(seconds=10, cpu_seconds=10),
... )
>>> from mesatee.enclave.sandbox import Supervisor, sealed_memfd
>>> with Supervisor() as supervisor, supervisor.run(job, {"data": sealed_memfd("data", b"ab")}) as outcome:
...     outcome.failure, outcome.outputs["result"].size, "seccomp" in outcome.layers
(None, 4, True)
"""

from mesatee.enclave.sandbox.protocol import Executor, Failure, Format, Job, Limits, OutputSpec
from mesatee.enclave.sandbox.supervisor import Outcome, Output, Supervisor, Usage, sealed_memfd

__all__ = [
    "Executor",
    "Failure",
    "Format",
    "Job",
    "Limits",
    "Outcome",
    "Output",
    "OutputSpec",
    "Supervisor",
    "Usage",
    "sealed_memfd",
]
