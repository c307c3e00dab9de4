from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave.platform.tpm import wire
from mesatee.enclave.platform.tpm.wire import Code, Reader
from mesatee.errors import Malformed, MesateeError, TooLarge


def test_a_command_as_the_specification_lays_it_out() -> None:
    plain = wire.command(Code.READ_PUBLIC, [0x81000003], [])
    assert plain.hex() == "80010000000e0000017381000003"
    authorised = wire.command(Code.UNSEAL, [0x80000001], [0x03000000])
    assert authorised.hex() == "80020000001b0000015e800000010000000903000000000001" + "0000"


def test_selection() -> None:
    assert wire.selection([0, 7, 8, 23]).hex() == "00000001000b03810180"
    for pcr in (-1, 24):
        with pytest.raises(Malformed):
            wire.selection([pcr])


def test_the_longest_command_and_response() -> None:
    room = wire.MESSAGE_BYTES - wire.HEADER_BYTES
    assert len(wire.command(Code.QUOTE, [], [], bytes(room))) == wire.MESSAGE_BYTES
    with pytest.raises(TooLarge):
        wire.command(Code.QUOTE, [], [], bytes(room + 1))
    for size, refused in ((wire.MESSAGE_BYTES, False), (wire.MESSAGE_BYTES + 1, True)):
        data = bytearray(b"\x80\x01" + size.to_bytes(4) + bytes(4) + bytes(size - 10))
        if refused:
            with pytest.raises(TooLarge):
                wire.response(data, handle=False, sessions=False)
        else:
            wire.response(data, handle=False, sessions=False)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "8001",
        "80010000000b00000000",  # Says 11 bytes, has 10.
        "80010000000900000000",
        "80010000000b0000009d00",  # A failure with a body.
        "80020000000a00000000",  # Sessions that were not asked for.
        "00c40000000a00000000",
    ],
)
def test_responses_that_are_refused(data: str) -> None:
    with pytest.raises(Malformed):
        wire.response(bytearray.fromhex(data), handle=False, sessions=False)


def test_the_parameters_end_where_their_size_says() -> None:
    data = bytearray.fromhex("80020000001300000000" + "00000003" + "aabbcc" + "0000")
    found = wire.response(data, handle=False, sessions=True).params
    assert found.rest() == b"\xaa\xbb\xcc"
    data[13] = 200
    with pytest.raises(Malformed):
        wire.response(data, handle=False, sessions=True)


def test_sized_fields_are_bounded() -> None:
    assert Reader.of(b"\0\x04abcd").sized(4) == b"abcd"
    assert Reader.of(b"\0\x04abcd").secret(4) == bytearray(b"abcd")
    for take in (Reader.sized, Reader.secret):
        with pytest.raises(TooLarge):
            take(Reader.of(b"\0\x05abcde"), 4)
        with pytest.raises(Malformed):
            take(Reader.of(b"\0\x05abcd"), 8)
    with pytest.raises(Malformed):
        Reader.of(b"x").done()


@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_hostile_responses(data: bytes, handle: bool, sessions: bool) -> None:
    whole = bytearray(b"\x80" + data[:1] + (len(data) + 5).to_bytes(4) + data[1:])
    for each in (bytearray(data), whole):
        with contextlib.suppress(MesateeError):
            found = wire.response(each, handle=handle, sessions=sessions).params
            found.sized()
            found.inner(found.number(4)).done()


def test_response_codes_in_words() -> None:
    assert wire.rc_text(0x1DF) == "TPM_RC_INTEGRITY (0x1df)"
    assert wire.rc_text(0x922) == "TPM_RC_RETRY (0x922)"
    assert wire.rc_text(0x7FF) == "response code 0x7ff"
