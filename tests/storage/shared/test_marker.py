"""The check of a bucket before it is used: asked until it has worked once."""

from __future__ import annotations

from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from federation.core.errors import SourceUnavailable, StorageRefused
from federation.storage.shared.catalogue.settings import CatalogueSettings
from federation.storage.shared.catalogue.site_catalogue import SiteCatalogue
from federation.storage.shared.objects import ObjectBucket
from federation.storage.shared.site_marker import MarkerFacts, SiteMarker


class _Bucket:
    def __init__(self, lease_s: float | None = None) -> None:
        self._facts = MarkerFacts("here", "epoch", 1, lease_s=lease_s)

    async def get_marker(self) -> bytes:
        return self._facts.encode()


class _Catalogue:
    site_id = "here"
    settings = CatalogueSettings("postgresql://db/site", lease_s=60.0)


class _Rules:
    """What the bucket answers, one after the other."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)

    async def check(self) -> None:
        error = self.errors.pop(0)
        if error is not None:
            raise error


def marker(rules: _Rules, lease_s: float | None = None) -> SiteMarker:
    bucket: Any = _Bucket(lease_s)
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


@pytest.mark.parametrize(
    ("of_the_lead_s", "told"), [(None, []), (60.0, []), (30.0, ["lease_differs"])]
)
async def test_a_lease_that_differs_from_that_of_the_site_is_told_of_at_the_start(
    of_the_lead_s: float | None, told: list[str]
) -> None:
    with capture_logs() as logged:
        await marker(_Rules(None), of_the_lead_s).check()
    assert [each["event"] for each in logged] == told


def test_a_marker_of_the_first_version_is_read() -> None:
    first = b'{"site": "here", "log-epoch": "epoch", "head": 7}'
    assert MarkerFacts.decode(first) == MarkerFacts("here", "epoch", 7)
