"""Writes docs/configuration.md from the model of the configuration file.

Run it after a change of the models in federation/config; with --check it only reports whether the
page is stale.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from federation.config.keys import ConfigKey, walk
from federation.config.types import Duration, Size, format_duration, format_size

TARGET = Path(__file__).with_name("configuration.md")
_SIZE, _DURATION = (get_args(kind)[1].func for kind in (Size, Duration))

_RELOAD = {True: "at once", False: "restart", None: ""}

_HEAD = """\
# Configuration

<!-- Made by docs/generate.py from federation/config/model.py; change it there. -->

`federation serve --config FILE` reads YAML. `federation check-config FILE` runs the same code
and nothing else. [config.example.yaml](../config.example.yaml) has every key with its default;
an empty file is a valid configuration.

- An unknown key, a key that is given twice, or an invalid value is an error. All errors are
  reported at once, each as `FILE:LINE: path: what was found; what is allowed`, the exit code is 2,
  and nothing is changed.
- A size is a number of bytes, or a number with K, M, G or T (powers of 1024).
- A duration is a number of seconds, or a number with ms, s, m, h or d.
- An address is `host:port`. IPv6 needs brackets and, in YAML, quotes: `"[::1]:8980"`. `0.0.0.0`
  or `"[::]"` is every address of the machine; port 0 picks a free one. A host name is bound on all
  of its addresses.
- `${NAME}` is replaced by the environment variable NAME, which must be set; `$${` stands for a
  plain `${`. Outside quotes the result is read as if it stood in the file, so it may be a number.
- A relative path starts at the folder of the file; `~` is the home folder.
- The column `reload` says whether a running node takes a new value when it
  [reads the file again](operations.md#changing-the-configuration), or after a restart. A list
  counts as a whole.
"""


def render() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    keys = list(walk())
    yield from _table("The file", [k for k in keys if len(k.path) == 1])
    for section in keys:
        is_as_of_a_listener = section.path[0] == "http" and len(section.path) > 1
        if section.section is not None and not is_as_of_a_listener:
            below = [k for k in keys if k.path[:-1] == section.path]
            title = f"`{section.dotted}`" + (", each of the list" if section.is_list else "")
            yield from _table(title, below)


def _table(title: str, keys: list[ConfigKey]) -> Iterator[str]:
    # In a list, the list as a whole says whether a reload takes it.
    with_reload = any(key.live is not None for key in keys)
    columns = ["key", "value", "default", *(["reload"] if with_reload else []), "what it is"]
    yield f"## {title}\n"
    yield _row(columns)
    yield _row(["---"] * len(columns))
    for key in keys:
        reload = [_RELOAD[key.live]] if with_reload else []
        yield _row([f"`{key.path[-1]}`", _kind(key), _default(key), *reload, _words(key)[0]])
    yield ""


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _kind(key: ConfigKey) -> str:
    if key.section is not None:
        return "list of mappings" if key.is_list else "mapping"
    annotation = key.field.annotation
    if (origin := get_origin(annotation)) in (list, dict):
        return "list" if origin is list else "mapping"
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    functions = _validators(key)
    if _SIZE in functions:
        return "size"
    if _DURATION in functions:
        return "duration"
    plain = next(part for part in (*_parts(annotation),) if part is not type(None))
    path = "path or URL" if str in _parts(annotation) else "path"
    return {int: "whole number", float: "number", bool: "true or false", Path: path}.get(
        plain, "address" if key.path[-1] == "address" else "text"
    )


def _validators(key: ConfigKey) -> set[Any]:
    """Return the parsing functions in a field's annotation, also below `| None`."""
    metadata = list(key.field.metadata)
    for part in get_args(key.field.annotation):
        metadata += getattr(part, "__metadata__", ())
    return {getattr(item, "func", None) for item in metadata}


def _parts(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(getattr(part, "__origin__", part) for part in get_args(annotation))
    return (getattr(annotation, "__origin__", annotation),)


def _default(key: ConfigKey) -> str:
    """Return the default as the file would have it; in words where it depends on the machine."""
    field = key.field
    if field.is_required():
        return "none: must be given"
    value = field.get_default()
    if value is None or field.default_factory is not None:
        return _words(key)[1] or "none"
    if key.section is not None and not key.is_list:
        return ""
    if isinstance(value, dict):
        return f"`{value}`"
    if isinstance(value, list):
        return "; ".join(f"`{_item(item)}`" for item in value)
    functions = _validators(key)
    if _SIZE in functions:
        value = format_size(value)
    elif _DURATION in functions:
        value = format_duration(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _words(key: ConfigKey) -> tuple[str, str]:
    """Split a description into what the key is and what the text says about its default."""
    what, _, default = (key.field.description or "").partition("; default: ")
    return what, default


def _item(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    return ", ".join(f"{k}: {str(v).lower()}" for k, v in item.items())


def main() -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.exists() and TARGET.read_text() == text else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
