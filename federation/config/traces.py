"""The keys about traces: which collector they are sent to, and how many there are."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from federation.config.section import Section, key
from federation.config.types import FilePath
from federation.config.upstreams import Url

Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


class TracesConfig(Section):
    """A collector of OpenTelemetry."""

    endpoint: Url | None = key(
        live=False,
        default=None,
        description="URL of a collector that takes OTLP over gRPC, e.g. http://127.0.0.1:4317; "
        "default: there are no traces",
    )
    sample: Share = key(
        live=False,
        default=1.0,
        description="share of the calls without traceparent that a trace is made of, 0 to 1; "
        "callers that send traceparent decide about their own",
    )
    server_cert: FilePath | None = key(
        live=False,
        default=None,
        description="PEM file: the authorities that the collector's certificate must be signed by",
    )
    access_token: FilePath | None = key(
        live=False,
        default=None,
        description="file with a token that is sent with each call, over TLS only",
    )

    @model_validator(mode="after")
    def _needs_tls(self) -> Self:
        # A token over plain text is one that everybody on the way has.
        is_tls = self.endpoint is not None and urlsplit(self.endpoint).scheme in {"https", "grpcs"}
        if not is_tls and (self.server_cert or self.access_token):
            raise ValueError("server-cert and access-token need an https or grpcs endpoint")
        return self
