"""Arguments that several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from swarmnet.core.errors import InvalidArgument
from swarmnet.core.ids import make_id


def request_id() -> str:
    """A fresh name for one change: asked for again under the same name, it is made once."""
    return make_id(os.urandom(16))


def parse_pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """`key=value` or `key` (an empty value) of a repeated option."""
    pairs = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key:
            raise InvalidArgument(f"invalid {option} {text!r}", hint=f"Write {option} KEY=VALUE.")
        pairs[key] = value
    return pairs


def parse_environment(texts: Iterable[str], own: Mapping[str, str]) -> list[str]:
    """`--env KEY=VALUE`, or `--env KEY` to pass this process's own value on, if it has one."""
    settings = []
    for text in texts:
        key, equals, _ = text.partition("=")
        if not key:
            raise InvalidArgument(f"invalid --env {text!r}", hint="Write --env KEY=VALUE or --env KEY.")
        if equals:
            settings.append(text)
        elif key in own:
            settings.append(f"{key}={own[key]}")
    return settings


def parse_count(text: str, what: str) -> int:
    """A number of things, 0 or more; InvalidArgument otherwise."""
    if not (text.isascii() and text.isdecimal()):
        raise InvalidArgument(
            f"invalid {what} {text!r}", hint="Give a whole number that is 0 or more, for example 3."
        )
    return int(text)
