"""The wire formats, without I/O: bytes and messages in, values and decisions out."""
