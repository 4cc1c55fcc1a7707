from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from swarmnet.core.secret import SecretBytes

RAW = b"correct horse battery staple"


@pytest.mark.parametrize("write", [repr, str, "{}".format, "{!r}".format, lambda s: f"{s}"])
def test_no_form_of_text_shows_the_bytes(write: Callable[[SecretBytes], str]) -> None:
    text = write(SecretBytes(RAW))
    assert "horse" not in text
    assert RAW.hex() not in text
    assert text == "<secret, 28 bytes>"


def test_reveal_gives_the_bytes_and_erase_overwrites_them() -> None:
    secret = SecretBytes(RAW)
    assert secret.reveal() == RAW
    secret.erase()
    assert secret.reveal() == bytes(len(RAW))


def test_equal_only_to_a_secret_of_the_same_bytes() -> None:
    assert SecretBytes(RAW) == SecretBytes(RAW)
    assert SecretBytes(RAW) != SecretBytes(RAW[:-1])
    assert SecretBytes(RAW) != RAW


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy, hash])
def test_neither_pickled_nor_copied_nor_hashed(leak: Callable[[SecretBytes], object]) -> None:
    with pytest.raises(TypeError):
        leak(SecretBytes(RAW))
