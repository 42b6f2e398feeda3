"""The headers of a request as access reads them, which knows tokens and no passwords."""

from __future__ import annotations

import base64
import binascii

from federation.access.incoming_call import Headers


def as_metadata(raw: tuple[tuple[bytes, bytes], ...]) -> Headers:
    """Return headers with names in small letters, and Basic credentials as a token."""
    found = []
    for name, value in raw:
        # Bytes that are no UTF-8 stay apart from every valid token.
        text = value.decode("utf-8", "surrogateescape")
        key = name.decode("latin-1").lower()
        found.append((key, bearer_of(text) if key == "authorization" else text))
    return found


def bearer_of(authorization: str) -> str:
    """Return Basic credentials as those of a bearer: the password is the token, for any user.

    Others are returned as they are, and so are those that cannot be read, which are refused then.
    """
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):  # also for bytes that are not UTF-8
        return authorization
    user, colon, password = pair.partition(":")
    # A URL such as https://TOKEN@host/ has the token as its user, and no password.
    return f"Bearer {password if colon and password else user}"
