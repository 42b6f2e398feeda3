"""Refuses a bucket whose own rules delete objects: rows would name objects that are gone.

A build that was told "present" would then fail elsewhere, and later.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import aiohttp
import structlog

from federation.config.storage import ObjectsConfig
from federation.core.clock import Clock
from federation.core.errors import SourceUnavailable, StorageRefused
from federation.core.http_proxy import proxy_for
from federation.storage.shared.credentials import BucketKey, key_of_environment, read_key
from federation.storage.shared.signing import signed_headers

_log = structlog.get_logger(__name__)
_LIMIT_S = 10.0
_ANSWER_BYTES = 256 * 1024
_DO = "see to it that no rule of the bucket deletes objects"


async def refuse_expiry(settings: ObjectsConfig, clock: Clock) -> None:
    """Ask the bucket for its rules. Raises StorageRefused, SourceUnavailable.

    Where the rules cannot be read (no right to, no static key, a server without rules), that is
    logged and the bucket is taken.
    """
    path = settings.credentials
    key = key_of_environment() if path is None else read_key(path)
    if key is None:
        _log.warning("bucket_rules_unknown", reason="there is no static key to ask with", do=_DO)
        return
    status, answer = await _ask(settings, key, clock)
    if status == 404:  # NoSuchLifecycleConfiguration
        return
    if status != 200:
        _log.warning("bucket_rules_unknown", reason=f"the bucket answers {status}", do=_DO)
        return
    rule = expiry_rule(answer, settings.prefix)
    if rule is not None:
        raise StorageRefused(
            f"the rule {rule!r} of the bucket {settings.bucket} deletes objects of this site; take "
            "it away, or use another bucket or prefix"
        )


async def _ask(settings: ObjectsConfig, key: BucketKey, clock: Clock) -> tuple[int, bytes]:
    endpoint = settings.endpoint or f"https://s3.{settings.region}.amazonaws.com"
    url = f"{endpoint.rstrip('/')}/{settings.bucket}"
    query = {"lifecycle": ""}
    now = datetime.fromtimestamp(clock.wall_s(), UTC)
    headers = signed_headers(url, query, settings.region, key, now)
    parts = urlsplit(url)
    proxy = proxy_for(parts.netloc, tls=parts.scheme == "https")  # as obstore's own requests
    limit = aiohttp.ClientTimeout(total=_LIMIT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(url, params=query, headers=headers, proxy=proxy) as answer,
        ):
            return answer.status, await _start_of(answer)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise SourceUnavailable("bucket", f"its rules: {type(error).__name__}") from error


async def _start_of(answer: aiohttp.ClientResponse) -> bytes:
    """Return the whole body, or of a longer one _ANSWER_BYTES."""
    try:
        return await answer.content.readexactly(_ANSWER_BYTES)
    except asyncio.IncompleteReadError as end:
        return end.partial


def expiry_rule(rules: bytes, prefix: str) -> str | None:
    """Return the id of an enabled rule that deletes objects below a prefix; None: there is none.

    rules: a LifecycleConfiguration of S3. Raises StorageRefused where it is none.
    """
    try:
        root = ET.fromstring(rules)  # noqa: S314 - bounded, and from the site's own server
    except ET.ParseError as error:
        raise StorageRefused(f"the bucket's rules cannot be read: {error}") from error
    for rule in root.iterfind("{*}Rule"):
        expiration = rule.find("{*}Expiration")
        if (
            rule.findtext("{*}Status") == "Enabled"
            and expiration is not None
            and (expiration.find("{*}Days") is not None or expiration.find("{*}Date") is not None)
            and rule.find(".//{*}Tag") is None  # objects of a site have none
            and _overlap(_prefix_of(rule), prefix)
        ):
            return rule.findtext("{*}ID") or "without an id"
    return None


def _prefix_of(rule: ET.Element) -> str:
    return next((found.text or "" for found in rule.iterfind(".//{*}Prefix")), "")


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
