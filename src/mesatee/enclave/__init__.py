"""What runs inside the TEE and is trusted: gateway, worker, sandbox and the machine's own evidence.

The host's doors are arguments of gateway and worker: `mesatee.cli` hands them `mesatee.enclave.doors`.
"""
