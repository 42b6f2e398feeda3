"""The base of every mapping in the configuration file.

The modules of its sections do not postpone annotations: pydantic would compile each of the 140
texts, a fiftieth of the CPU of a start.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

LIVE = "live"  # in a field's json_schema_extra: see key()

T = TypeVar("T")


def key(*, live: bool, description: str, default: T = ..., **constraints: Any) -> T:  # type: ignore[assignment]
    """Declare a key that a reload treats as a unit: each value outside lists, and each list.

    Sections and the keys within lists are declared by pydantic's Field: the keys of the section,
    or the list, decide about them.

    live: whether a running process takes a new value. Otherwise that waits for a restart.
    constraints: as pydantic's Field takes them, e.g. ge.
    """
    extra: JsonDict = {LIVE: live}
    field: T = Field(default, description=description, json_schema_extra=extra, **constraints)
    return field


def section(description: str) -> Any:
    """Declare a section that may be left out, as if the file had it without any key.

    A default of the section's own type would make pydantic build a validator for that type at
    import, next to the one for the whole file: a tenth of the CPU of importing the model.
    """
    return Field(default={}, description=description)


class Section(BaseModel):
    """A mapping of the file: unknown keys are errors, names have dashes."""

    model_config = ConfigDict(
        extra="forbid",
        defer_build=True,  # what is in the whole file needs no validator of its own
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,  # a default may clash with a value that was given
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: Any) -> Any:
        # YAML gives null for a key whose lines are all comments.
        return {} if value is None else value
