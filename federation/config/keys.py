"""Every key of the configuration file, derived from the model: for messages, docs and tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, get_args

from pydantic.fields import FieldInfo

from federation.config.model import Config
from federation.config.section import LIVE, Section

Path = tuple[str, ...]


class ConfigKey(NamedTuple):
    """One key: its path (items of a list share the path of the list) and its declaration."""

    path: Path
    field: FieldInfo
    section: type[Section] | None  # the keys below it, if any
    is_list: bool

    @property
    def dotted(self) -> str:
        """The path as messages show it."""
        return ".".join(self.path)

    @property
    def live(self) -> bool | None:
        """Whether a reload takes a new value; None: the list around it, or its own keys, decide."""
        extra = self.field.json_schema_extra
        return bool(extra[LIVE]) if isinstance(extra, dict) and LIVE in extra else None


def walk(model: type[Section] = Config, below: Path = ()) -> Iterator[ConfigKey]:
    """Yield every key in the order of the model, a section before what is in it."""
    for name, field in model.model_fields.items():
        section, is_list = _section_of(field.annotation)
        key = ConfigKey((*below, field.alias or name), field, section, is_list)
        yield key
        if section is not None:
            yield from walk(section, key.path)


def _section_of(annotation: object) -> tuple[type[Section] | None, bool]:
    """Return the section that an annotation (S, S | None, list[S]) holds, and if it is a list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, Section):
            # A list counts as one key, whatever is in its items.
            return part, getattr(annotation, "__origin__", None) is list
    return None, False
