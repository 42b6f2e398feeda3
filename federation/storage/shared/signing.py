"""Signs a request to an S3 server by AWS Signature Version 4. Pure.

Only for what obstore has no call for: reading the rules of a bucket.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, urlsplit

from federation.storage.shared.credentials import BucketKey

_ALGORITHM = "AWS4-HMAC-SHA256"
_EMPTY = hashlib.sha256(b"").hexdigest()


def signed_headers(
    url: str, query: Mapping[str, str], region: str, key: BucketKey, now: datetime
) -> dict[str, str]:
    """Return the headers of a GET without a body; now: in UTC."""
    parts = urlsplit(url)
    at = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": parts.netloc, "x-amz-content-sha256": _EMPTY, "x-amz-date": at}
    if key.session_token:
        headers["x-amz-security-token"] = key.session_token
    names = ";".join(sorted(headers))
    asked = "&".join(f"{quote(k, '')}={quote(v, '')}" for k, v in sorted(query.items()))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    request = "\n".join(["GET", quote(parts.path) or "/", asked, *lines, "", names, _EMPTY])
    scope = f"{at[:8]}/{region}/s3/aws4_request"
    to_sign = "\n".join([_ALGORITHM, at, scope, hashlib.sha256(request.encode()).hexdigest()])
    secret = f"AWS4{key.secret_access_key}".encode()
    for part in (at[:8], region, "s3", "aws4_request", to_sign):
        secret = hmac.digest(secret, part.encode(), "sha256")
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={key.access_key_id}/{scope}, SignedHeaders={names}, "
        f"Signature={secret.hex()}"
    )
    return headers
