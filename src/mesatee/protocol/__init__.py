"""What crosses a boundary: statements, sealed formats, wire messages, the host's doors. No I/O, no clock.

>>> from mesatee.protocol import envelope
>>> envelope.pae(b"{}")
b'DSSEv1 28 application/vnd.in-toto+json 2 {}'
"""
