"""The part of Go's templates that operators use with `--format`.

    {{.ID}}  {{.Spec.Name}}           a field, by its path
    {{json .}}  {{upper .Name}}       a function of one (json, upper, lower, len)
    {{range .Subnets}}{{.}} {{end}}   once for each element

Anything else, and any field that is not there, is an error that names it: a script that reads the wrong
field learns so at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from swarmnet.core.errors import InvalidArgument

_ACTION: Final = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_PATH: Final = re.compile(r"\.(?:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)?")


def to_text(value: object) -> str:
    """A value as a template prints it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_FUNCTIONS: Final[Mapping[str, Callable[[Any], str]]] = {
    "": to_text,
    "json": lambda value: json.dumps(value, ensure_ascii=False),
    "upper": lambda value: to_text(value).upper(),
    "lower": lambda value: to_text(value).lower(),
    "len": lambda value: str(len(value)),
}


@dataclass(frozen=True, slots=True)
class _Value:
    path: tuple[str, ...]
    function: str


@dataclass(frozen=True, slots=True)
class _Range:
    path: tuple[str, ...]
    body: tuple[_Part, ...]


_Part: TypeAlias = "str | _Value | _Range"


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; `render` raises InvalidArgument for a field that the data does not have."""

    parts: tuple[_Part, ...]

    def render(self, data: object) -> str:
        return "".join(_render(part, data) for part in self.parts)


def parse(text: str) -> Template:
    """InvalidArgument when it is none of the forms above. `\\t` and `\\n` stand for a tab and a new line."""
    pieces = iter(_ACTION.split(text.replace("\\t", "\t").replace("\\n", "\n")))
    return Template(_parse_body(pieces, inside_range=False))


def _parse_body(pieces: Iterator[str], *, inside_range: bool) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    for literal in pieces:
        if "{{" in literal or "}}" in literal:
            raise _bad("unbalanced {{ }}")
        parts.append(literal)
        action = next(pieces, None)
        if action is None:
            break
        words = action.split()
        if words == ["end"] and inside_range:
            return tuple(parts)
        if len(words) == 2 and words[0] == "range":
            parts.append(_Range(_path(words[1]), _parse_body(pieces, inside_range=True)))
        else:
            parts.append(_parse_value(action, words))
    if inside_range:
        raise _bad("a {{range}} without its {{end}}")
    return tuple(parts)


def _parse_value(action: str, words: list[str]) -> _Value:
    function = words[0] if len(words) == 2 else ""
    if len(words) not in {1, 2} or function not in _FUNCTIONS:
        raise _bad(f"{{{{{action}}}}} is not understood")
    return _Value(_path(words[-1]), function)


def _path(word: str) -> tuple[str, ...]:
    if not _PATH.fullmatch(word):
        raise _bad(f"{word} is not a field")
    return tuple(name for name in word.split(".") if name)


def _bad(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"invalid --format: {why}", hint="For example: --format '{{.ID}} {{.Name}}', or --format json."
    )


def _render(part: _Part, data: object) -> str:
    match part:
        case str():
            return part
        case _Value(path, function):
            return _FUNCTIONS[function](_lookup(data, path))
        case _Range(path, body):
            elements = _lookup(data, path)
            if not isinstance(elements, list | tuple):
                raise _bad(f".{'.'.join(path)} is no list")
            return "".join(_render(each, element) for element in elements for each in body)


def _lookup(data: object, path: tuple[str, ...]) -> object:
    for name in path:
        if not isinstance(data, Mapping) or name not in data:
            known = " ".join(f".{key}" for key in data) if isinstance(data, Mapping) else "none"
            raise InvalidArgument(f"invalid --format: unknown field .{name}", hint=f"Known here: {known}")
        data = data[name]
    return data
