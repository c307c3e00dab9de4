"""The package's face: its example runs, its names are all there."""

from __future__ import annotations

import doctest

from mesatee import channel
from mesatee.channel import client, listen, uvicorn_protocol


def test_the_example_runs():
    outcome = doctest.testmod(channel)
    assert outcome.attempted > 5
    assert outcome.failed == 0


def test_names():
    for module in (channel, client, listen, uvicorn_protocol):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
    assert set(client.__all__) | set(listen.__all__) <= set(channel.__all__)


def test_the_server_closes_later_than_the_client():
    assert uvicorn_protocol.KEEP_ALIVE_SECONDS > client.KEEP_ALIVE_SECONDS
    assert uvicorn_protocol.CONNECTION_AGE_SECONDS > client.CONNECTION_AGE_SECONDS
