"""Buckets for tests, and clients of them."""

from __future__ import annotations

import random

from federation.config.storage import ObjectsConfig
from federation.core.clock import SystemClock
from federation.observability.metrics import Metrics
from federation.storage.shared.credentials import BucketKey
from federation.storage.shared.objects import USUAL_LIMITS, BucketLimits, ObjectBucket
from tests.support.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

KEY = BucketKey(ACCESS_KEY, SECRET_KEY)


def settings(server: S3Server, prefix: str, bucket: str = BUCKET) -> ObjectsConfig:
    return ObjectsConfig(bucket=bucket, prefix=prefix, endpoint=server.endpoint)


def client(
    server: S3Server, prefix: str, bucket: str = BUCKET, key: BucketKey = KEY
) -> ObjectBucket:
    return client_of(settings(server, prefix, bucket), key)


def client_of(
    config: ObjectsConfig, key: BucketKey = KEY, limits: BucketLimits = USUAL_LIMITS
) -> ObjectBucket:
    return ObjectBucket(config, key, SystemClock(), Metrics().bucket, random.Random(1), limits)
