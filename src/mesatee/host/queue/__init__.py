"""The queue of tickets, on SQLite.

>>> import tempfile
>>> from pathlib import Path
>>> folder = tempfile.TemporaryDirectory()
>>> queue = SqliteQueue(Path(folder.name, "queue.sqlite"))
>>> queue.put(b"sealed ticket")
>>> lease = queue.lease(seconds=60, wait=0)
>>> lease.ticket
b'sealed ticket'
>>> queue.ack(lease.id)
>>> queue.close(); folder.cleanup()
"""

from mesatee.host.queue.sqlite import SqliteQueue

__all__ = ["SqliteQueue"]
