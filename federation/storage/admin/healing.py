"""What `federation status` says of blobs that were found damaged, for every engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from federation.core.clock import utc_text
from federation.storage.catalogue.blobs import digest_of_key


def healing_facts(
    lost: int, healed: int, missing: Iterable[Sequence[Any]], back: Iterable[Sequence[Any]]
) -> dict[str, Any]:
    """Return what is still missing and what came back, as counts and as rows that are shown.

    Rows are of the table lost. missing: key, size, reason, found, tries, tried, note; back: key,
    size, reason, found, back, origin. Times are wall clock seconds; tried 0: never.
    """
    return {
        "lost": lost,
        "healed": healed,
        "lost-blobs": [
            {
                "digest": str(digest_of_key(key, size)),
                "damage": reason,
                "since": utc_text(found_s),
                "tries": tries,
                "tried-at": utc_text(tried_s) if tried_s else None,
                "answers": note or None,
            }
            for key, size, reason, found_s, tries, tried_s, note in missing
        ],
        "healed-blobs": [
            {
                "digest": str(digest_of_key(key, size)),
                "damage": reason,
                "found-at": utc_text(found_s),
                "healed-at": utc_text(back_s),
                "from": origin or None,
            }
            for key, size, reason, found_s, back_s, origin in back
        ],
    }
