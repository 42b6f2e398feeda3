"""The keys about namespaces of keyed entries, which HTTP listeners serve."""

from typing import Annotated

from pydantic import Field

from federation.config.section import Section
from federation.config.types import Flag


class NamespaceConfig(Section):
    """Rules for the namespaces that a pattern matches."""

    match: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="pattern (*, ?, [...]) of namespaces: kv/NAME, gradle, turborepo, "
        "turborepo/TEAM, nx; ac for what is under /ac and no action result"
    )
    write_once: Flag = Field(
        default=False,
        description="whether the first value of a key stays: later ones are not stored, and Nx is "
        "told so by the status 409",
    )
