"""A backup's file opens with its key and whole, or says what is wrong with it."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

from swarmnet.api.v1.backup_pb2 import BackupHeader
from swarmnet.core import backup
from swarmnet.core.errors import FailedPrecondition, InvalidArgument, SwarmnetError
from swarmnet.core.secret import SecretBytes

KEY = SecretBytes(b"k" * 32)
SALT = bytes(range(32))
STATE = b"the root's private key " * 100_000  # three frames


def header() -> BackupHeader:
    return BackupHeader(cluster_id="c" * 25, salt=SALT, index=42, software="1.2.3")


@cache
def sealed(state: bytes = STATE) -> bytes:
    return b"".join(backup.seal(header(), state, KEY))


def starts() -> list[int]:
    """Where each frame starts, and the end."""
    found = [len(next(iter(backup.seal(header(), b"", KEY))))]
    while found[-1] < len(sealed()):
        found.append(found[-1] + 4 + int.from_bytes(sealed()[found[-1] : found[-1] + 4], "big"))
    return found


@pytest.mark.parametrize("size", [0, 1, backup.FRAME_BYTES, backup.FRAME_BYTES + 1, len(STATE)])
def test_what_was_sealed_is_opened(size: int) -> None:
    opened = backup.unseal(sealed(STATE[:size]), KEY)
    assert (opened.state, opened.header.index, opened.header.cluster_id) == (STATE[:size], 42, "c" * 25)
    assert backup.read_header(sealed(STATE[:size])) == opened.header


def test_nothing_of_the_state_stands_in_the_file() -> None:
    assert b"private key" not in sealed()


def test_another_key_opens_nothing() -> None:
    with pytest.raises(FailedPrecondition, match="not the passphrase or recovery key"):
        backup.unseal(sealed(), SecretBytes(b"K" * 32))


def test_a_file_cut_off_anywhere_is_refused() -> None:
    ends = starts()
    cuts = {at + step for at in (*ends, 16, 24, len(sealed())) for step in (-1, 0, 1)}
    for cut in sorted(each for each in cuts if 0 <= each < len(sealed())):
        with pytest.raises(InvalidArgument) as caught:
            backup.unseal(sealed()[:cut], KEY)
        assert caught.value.hint
    with pytest.raises(InvalidArgument, match="cut off"):
        backup.unseal(sealed()[: ends[-2]], KEY)


def test_a_changed_byte_anywhere_is_refused() -> None:
    ends = starts()
    places = {
        *range(0, ends[0], 3),
        *(at + step for at in ends[:-1] for step in (0, 3, 4, 500)),
        len(sealed()) - 1,
    }
    for place in sorted(places):
        changed = bytearray(sealed())
        changed[place] ^= 1
        with pytest.raises(SwarmnetError):
            backup.unseal(bytes(changed), KEY)


def test_frames_moved_repeated_or_left_over_are_refused() -> None:
    ends = starts()
    frames = [sealed()[start:end] for start, end in pairwise(ends)]
    start = sealed()[: ends[0]]
    for order in ([1, 0, 2], [0, 0, 1, 2], [0, 2], [0, 1, 2, 2], [0, 1, 1, 2]):
        with pytest.raises(InvalidArgument):
            backup.unseal(start + b"".join(frames[each] for each in order), KEY)
    with pytest.raises(InvalidArgument):
        backup.unseal(sealed() + b"more", KEY)


def test_another_format_is_named() -> None:
    other = sealed()[:19] + b"\x02" + sealed()[20:]
    with pytest.raises(InvalidArgument, match="has format 2, and this version of swarmnet reads format 1"):
        backup.unseal(other, KEY)
    with pytest.raises(InvalidArgument, match="no backup of a swarm"):
        backup.read_header(b"#!/bin/sh\necho this is something else entirely\n")


def test_a_key_comes_of_passphrase_and_salt() -> None:
    passphrase = SecretBytes(b"correct horse battery")
    key = backup.derive_key(passphrase, SALT)
    assert len(key) == 32
    assert key == backup.derive_key(passphrase, SALT)
    assert key != backup.derive_key(passphrase, SALT[::-1])
    assert key != backup.derive_key(SecretBytes(b"correct horse batterx"), SALT)


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="11 characters could be guessed"):
        backup.derive_key(SecretBytes(b"0123456789a"), SALT)


def test_a_recovery_key_is_all_of_its_random_bytes() -> None:
    one, other = (backup.make_recovery_key(raw).reveal() for raw in (bytes(31) + b"\x01", b"\xff" * 32))
    assert one == b"SWMREC-1-" + b"0" * 49 + b"1"
    assert (len(other), other != one) == (59, True)
