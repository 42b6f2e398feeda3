"""The check of a bucket before it is used: asked until it has worked once."""

from __future__ import annotations

from typing import Any, cast

import pytest

from federation.core.errors import SourceUnavailable, StorageRefused
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.shared.objects import ObjectBucket
from federation.storage.shared.site_marker import MarkerFacts, SiteMarker


class _Bucket:
    async def get_marker(self) -> bytes:
        return MarkerFacts("here", "epoch", 1).encode()


class _Catalogue:
    site_id = "here"


class _Rules:
    """What the bucket answers, one after the other."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)

    async def check(self) -> None:
        error = self.errors.pop(0)
        if error is not None:
            raise error


def marker(rules: _Rules) -> SiteMarker:
    bucket: Any = _Bucket()
    catalogue: Any = _Catalogue()
    return SiteMarker(cast(ObjectBucket, bucket), cast(SiteCatalogue, catalogue), rules.check)


async def test_d08_rules_that_could_not_be_asked_at_the_start_are_asked_before_an_upload() -> None:
    rules = _Rules(
        SourceUnavailable("bucket", "away"), StorageRefused("the rule 'tidy' deletes objects"), None
    )
    checked = marker(rules)
    with pytest.raises(SourceUnavailable, match="away"):
        await checked.check()
    with pytest.raises(SourceUnavailable, match="tidy"):
        await checked.check_or_fail()
    await checked.check_or_fail()
    await checked.check_or_fail()
    assert rules.errors == []
