"""Reads a configuration file into a Config, or raises one error that lists all problems."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from federation.config.complaints import allowed
from federation.config.keys import walk
from federation.config.model import Config
from federation.config.section import Section
from federation.config.types import Location, format_size
from federation.config.yaml_reader import Parsed, parse
from federation.core.errors import ConfigError

_FILE_MAX_BYTES = 2**20
_FOUND_MAX = 60  # characters of a bad value that a message repeats
_ABOUT_A_KEY = re.compile(r"([a-z][a-z-]*(?:\[[0-9]+\]|\.[a-z][a-z-]*)*): (.*)", re.DOTALL)
# What a url has between :// and @, or behind password=: messages reach terminals and logs.
_SECRET = re.compile(r"(?<=://)[^/@\s]*(?=@)|(?<=password=)[^&\s\"]*")

S = TypeVar("S", bound=Section)


class Problem(NamedTuple):
    """One problem in a configuration file."""

    file: str
    line: int
    path: str  # e.g. "listeners[0].address"; "" for the file as a whole
    message: str

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}: {path}{self.message}"


class ConfigFileError(ConfigError):
    """A configuration file has problems; each is in `problems` and on a line of the message."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read the file, and the members of the mesh that it names; blocks.

    Relative paths in it start at its folder.

    Raises ConfigFileError with every problem found, in the order of their lines.
    """
    try:
        with path.open("rb") as file:
            # A byte more shows that it is too large; a wrong path may name a disk image.
            data = file.read(_FILE_MAX_BYTES + 1)
        if len(data) > _FILE_MAX_BYTES:
            raise _whole(path, f"larger than {format_size(_FILE_MAX_BYTES)}")
        text = data.decode()
    except OSError as error:
        raise _whole(path, f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFileError([Problem(str(path), line, "", "not UTF-8 text")]) from None
    config = loads(text, path, environment)
    if config.mesh.url is None:
        return config
    from federation.config.members import with_members  # noqa: PLC0415 - few nodes need it

    return with_members(config)


def loads(text: str, path: Path, environment: Mapping[str, str]) -> Config:
    """As load, for the text of the file `path`, which need not exist; without a mesh's members."""
    return read_section(Config, text, path, environment)


def read_section(kind: type[S], text: str, path: Path, environment: Mapping[str, str]) -> S:
    """Return what the text of a file says. Raises ConfigFileError."""
    parsed = parse(text, environment)
    problems = [Problem(str(path), c.line, _dotted(c.location), c.text) for c in parsed.complaints]
    # What could not be read has no value: pydantic would complain about it a second time.
    spoilt = {c.location for c in parsed.complaints}
    if () in spoilt:
        raise ConfigFileError(problems)
    try:
        found = kind.model_validate(
            parsed.value,
            by_alias=True,
            by_name=False,  # Python's names with underscores are no keys of the file
            context={"base": path.absolute().parent},
        )
    except ValidationError as error:
        problems += [
            _problem(kind, path, parsed, detail)
            for detail in error.errors(include_url=False)
            if detail["loc"] not in spoilt
        ]
    if problems:
        raise ConfigFileError(sorted(problems, key=lambda p: p.line))
    return found


@contextmanager
def lines_of(path: Path, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Add the line to a ConfigError from inside the block that names a key of this file.

    Checks that follow load() know the key alone, as "listeners[0].tls.server-cert". Reads the file
    again then, which blocks.
    """
    try:
        yield
    except ConfigFileError:
        raise
    except ConfigError as error:
        raise _placed(error, path, environment) or error from None


def _placed(error: ConfigError, path: Path, environment: Mapping[str, str]) -> ConfigError | None:
    named = _ABOUT_A_KEY.fullmatch(str(error))
    if named is None:
        return None
    parts = re.findall(r"[a-z][a-z-]*|[0-9]+", named[1])
    location: Location = tuple(int(part) if part.isdecimal() else part for part in parts)
    try:
        parsed = parse(path.read_text(), environment)
    except (OSError, UnicodeDecodeError):  # it has changed meanwhile
        return None
    # An item that is not there comes from elsewhere, as members of a mesh do.
    item = location[:2] if len(location) > 1 and isinstance(location[1], int) else location[:1]
    if item not in parsed.lines:
        return None
    return ConfigFileError([Problem(str(path), parsed.line_of(location), named[1], named[2])])


def _whole(path: Path, message: str) -> ConfigFileError:
    return ConfigFileError([Problem(str(path), 1, "", message)])


def _dotted(location: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _problem(kind: type[Section], path: Path, parsed: Parsed, detail: ErrorDetails) -> Problem:
    # A default that clashes with a given value is reported under the field's Python name.
    location = tuple(p.replace("_", "-") if isinstance(p, str) else p for p in detail["loc"])
    if detail["type"] == "extra_forbidden":
        location = detail["loc"]
        message = _unknown(kind, location)
    elif detail["type"] == "missing":
        message = "missing, and has no default"
    else:
        message = allowed(detail)
        if not location or location in parsed.lines:  # else it is a default, not in the file
            message = f"found {_shown(parsed.at(location))}; {message}"
    return Problem(str(path), parsed.line_of(location), _dotted(location), message)


def _unknown(kind: type[Section], location: Location) -> str:
    *above, key = (part for part in location if isinstance(part, str))
    keys = list(walk(kind))
    here = [k.path[-1] for k in keys if k.path[:-1] == tuple(above)]
    near = difflib.get_close_matches(key.replace("_", "-").lower(), here, 1, 0.6)
    elsewhere = [k.dotted for k in keys if k.path[-1] == key]
    guess = near or elsewhere[:1]
    hint = f"did you mean {guess[0]}? " if guess else ""
    return f"unknown key; {hint}known here: {', '.join(here)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = _SECRET.sub("…", json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= _FOUND_MAX else f"{text[:_FOUND_MAX]}…"
