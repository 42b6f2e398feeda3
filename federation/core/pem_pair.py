"""Certificates and keys that are in memory, for OpenSSL, which reads files only."""

from __future__ import annotations

import os
import ssl


def load_pair_into(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Let a context show this certificate chain; both texts are PEM. Raises SSLError.

    As two files: either text may have blocks of the other kind.
    """
    at_chain, at_key = _in_memory(chain), _in_memory(key)
    try:
        context.load_cert_chain(f"/proc/self/fd/{at_chain}", f"/proc/self/fd/{at_key}")
    finally:
        os.close(at_chain)
        os.close(at_key)


def _in_memory(data: bytes) -> int:
    # In memory: a key that is only there must not touch a disk.
    number = os.memfd_create("pem")
    with open(number, "wb", closefd=False) as file:
        file.write(data)
    return number
