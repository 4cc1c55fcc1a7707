"""`--filter KEY=VALUE`: values of one key are alternatives, and every key must match."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeAlias, TypeVar

from swarmnet.core.errors import InvalidArgument

T = TypeVar("T")
Matcher: TypeAlias = Callable[[T, str], bool]


class Filter(Generic[T]):
    """What an operator wrote, over objects of one kind. InvalidArgument for a key not in `matchers`."""

    def __init__(self, texts: Iterable[str], matchers: Mapping[str, Matcher[T]]) -> None:
        self._matchers = matchers
        self._wanted: dict[str, list[str]] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals or key not in matchers:
                raise InvalidArgument(
                    f"invalid filter {text!r}",
                    hint=f"Write --filter KEY=VALUE, where KEY is one of: {', '.join(matchers)}.",
                )
            self._wanted.setdefault(key, []).append(value)

    def __call__(self, each: T) -> bool:
        return all(
            any(self._matchers[key](each, value) for value in values) for key, values in self._wanted.items()
        )


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """`key` or `key=value`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
