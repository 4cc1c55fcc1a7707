from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmnet.core.errors import MalformedToken
from swarmnet.core.tokens import make_token, parse_token, root_digest

TOKEN = make_token(b"a root certificate", bytes(range(16)))


@given(st.binary(max_size=200), st.binary(min_size=16, max_size=16))
def test_a_token_reads_back(root: bytes, secret: bytes) -> None:
    token = make_token(root, secret)
    again = parse_token(f"  {token.text()}\n")
    assert again.digest == token.digest == root_digest(root)
    assert again.secret == token.secret


def test_its_form_is_the_one_operators_know() -> None:
    word, number, digest, secret = TOKEN.text().split("-")
    assert (word, number, len(digest), len(secret)) == ("SWMTKN", "1", 50, 25)


def test_its_repr_hides_the_secret() -> None:
    assert TOKEN.text().rsplit("-", 1)[1] not in repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SWMTKN",
        "SWMTKN-1-",
        TOKEN.text()[:-1],
        TOKEN.text() + "0",
        TOKEN.text().replace("SWMTKN-1", "SWMTKN-2"),
        TOKEN.text().upper(),
        "SWMTKN-1-" + "z" * 50 + "-" + "0" * 25,
        "SWMTKN-1-" + "0" * 50 + "-" + "z" * 25,
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(MalformedToken) as caught:
        parse_token(text)
    assert caught.value.message == "invalid join token"
    assert "join-token" in caught.value.hint
    assert len(text) < 10 or text not in str(caught.value)


@given(st.text(max_size=120))
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    with pytest.raises(MalformedToken):
        parse_token(text)
