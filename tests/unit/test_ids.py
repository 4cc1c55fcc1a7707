from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.core.errors import InvalidArgument
from swarmnet.core.ids import check_name, from_base36, is_id, make_id, to_base36


@given(st.binary(min_size=16, max_size=16))
def test_an_id_is_25_base36_digits_and_reads_back(raw: bytes) -> None:
    text = make_id(raw)
    assert is_id(text)
    assert from_base36(text, 16) == raw


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("a" * 25, True),
        ("A" * 25, False),
        ("a" * 24, False),
        ("", False),
        ("-" * 25, False),
        ("٣" * 25, False),
    ],
)
def test_is_id(text: str, yes: bool) -> None:
    assert is_id(text) is yes


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        to_base36(b"\xff" * 16, 3)
    with pytest.raises(ValueError, match="more than 1 bytes"):
        from_base36("zz", 1)
    with pytest.raises(ValueError, match="16 random bytes"):
        make_id(b"short")


@pytest.mark.parametrize("text", ["", "+1", " 1", "1_0", "A", "é"])
def test_only_lower_case_base36_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="base36"):
        from_base36(text, 16)


@pytest.mark.parametrize("name", ["a", "9", "my-multi-host-network", "a.b_c-D", "x" * 63])
def test_good_names(name: str) -> None:
    assert check_name(name, "network") == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "x" * 64, "ä", "a\n", "a\x00", "../etc"])
def test_bad_names_say_what_a_good_one_is(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_name(name, "network")
    assert "network name" in caught.value.message
    assert "1 to 63" in caught.value.hint
