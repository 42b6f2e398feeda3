"""What is counted and measured about how callers are told apart."""

from __future__ import annotations

from federation.observability.declared import Merge, MetricDeclarations


class AccessMetrics:
    """Certificates of listeners, and keys of tokens."""

    def __init__(self, declare: MetricDeclarations) -> None:
        self.certificate_end = declare.gauge(
            "federation_server_certificate_expiry_timestamp_seconds",
            Merge.LEAST,
            "When the certificate that a listener shows expires, in seconds since 1970",
            ["listener"],
        )
        self.key_fetches = declare.counter(
            "federation_jwt_key_fetches_total",
            "Fetches of the keys of JSON Web Tokens from a URL, by outcome (ok, failed)",
            ["outcome"],
        )
        self.keys_given = declare.gauge(
            "federation_jwt_keys_timestamp_seconds",
            Merge.LEAST,
            "When a URL last gave the keys of JSON Web Tokens, in seconds since 1970; 0: never yet",
            ["url"],
        )
