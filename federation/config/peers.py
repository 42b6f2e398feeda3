"""The keys about peers: which caches this node replicates to, and what it sends them."""

import json
from collections import Counter
from fnmatch import translate
from re import compile as compile_pattern
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from federation.config.section import Section, section
from federation.config.types import Count, Duration, Flag, InstanceName, Name, Size, WindowText
from federation.config.upstreams import AuthConfig, ConnectionConfig, Url


def _check_pattern(pattern: str) -> str:
    compile_pattern(translate(pattern))
    return pattern


Pattern = Annotated[str, Field(max_length=2000), AfterValidator(_check_pattern)]


class RuleConfig(Section):
    """Which objects are sent, and when. The first rule that matches an object decides."""

    match: Pattern = Field(
        default="*",
        description=(
            "pattern (*, ?, [...]) of asset URIs; any other than * excludes action results, and "
            "blobs that no matching asset needs"
        ),
    )
    instances: list[Pattern] = Field(
        default=[],
        max_length=1000,
        description="patterns of the instance names that entries have; empty: all",
    )
    min_size: Size = Field(default=0, description="smaller blobs are not sent by this rule")
    max_size: Size = Field(default=0, description="larger blobs are not sent; 0: no limit")
    when: Literal["always", "window", "manual", "never"] = Field(
        default="always",
        description=(
            "window: while the peer's window is open; manual: by `federation reconcile`; "
            "never: not at all"
        ),
    )
    closure: Literal["all", "metadata"] = Field(
        default="all",
        description="what is sent with an entry: all blobs it names, or only directories and trees",
    )


class PeerConnectionConfig(ConnectionConfig):
    """As for an upstream, but with more time, as no client waits for a peer."""

    request_timeout: Duration = Field(
        default=60.0, gt=0, description="longest time for a call without a stream"
    )
    stall: Duration = Field(
        default=30.0, gt=0, description="time without a byte after which a stream is given up"
    )
    concurrency: Count = Field(default=32, ge=1, le=1000, description="most calls at once")


class PeerConfig(Section):
    """A cache that this node replicates new objects to."""

    name: Name = Field(description="its name in logs, metrics and commands")
    url: Url = Field(description="http, grpc (plain) or https, grpcs (TLS), ://host:port")
    instance_name: str | None = Field(
        default=None,
        max_length=1000,
        description="instance name at the peer, if the rules select a single instance; default: "
        "the name here",
    )
    instances: dict[InstanceName, InstanceName] = Field(
        default={},
        max_length=1000,
        description="instance names here, each with its name at the peer; entries of other "
        "instances are not sent; empty: all are, under their own names",
    )
    auth: AuthConfig = section("certificates and token")
    connection_config: PeerConnectionConfig = section("timeouts, retries and limits")
    send: Literal["received", "all"] = Field(
        default="received",
        description="received: what clients and other peers sent; all: also what upstreams gave",
    )
    pins: Flag = Field(
        default=False,
        description="whether it is told what is pinned here, and keeps that, too, as far as its "
        "own pins-max allows",
    )
    order: Literal["oldest", "newest"] = Field(
        default="oldest", description="which of the objects that it lacks are sent first"
    )
    rules: list[RuleConfig] = Field(
        default=[], max_length=1000, description="what is sent; empty: everything, always"
    )
    window: WindowText = Field(
        default="20:00-06:00", description="local time in which rules with `when: window` send"
    )
    check_every: Duration = Field(
        default=86400.0,
        description="how often everything stored here is compared with the peer; 0: never",
    )

    @property
    def names_there(self) -> dict[str, str] | None:
        """The names at the peer of the instances that are sent; None: all, unchanged."""
        if self.instances:
            return self.instances
        if self.instance_name is None:
            return None
        return dict.fromkeys(self._sent_instances(), self.instance_name)

    def _sent_instances(self) -> set[str]:
        """Return the instance patterns of the rules that send anything."""
        # A rule that sends nothing mixes no names.
        sending = [rule for rule in self.rules if rule.when != "never"]
        return {name for rule in sending for name in rule.instances or ["*"]}

    @model_validator(mode="after")
    def _keeps_instances_apart(self) -> Self:
        """Refuse mappings under which a push to one instance would replace names of another."""
        if self.instances and self.instance_name is not None:
            raise ValueError("instances and instance-name exclude each other")
        twice = sorted(name for name, n in Counter(self.instances.values()).items() if n > 1)
        if twice:
            raise ValueError(
                f"instances: several have the name {twice[0]!r} at the peer, and would replace "
                "each other's names there; each needs a name of its own"
            )
        if self.instance_name is None:
            return self
        sent = self._sent_instances() if self.rules else {"*"}
        if len(sent) != 1 or any(character in "".join(sent) for character in "*?["):
            # JSON is YAML, too, and quotes whatever the name contains.
            fix = json.dumps({"": self.instance_name})
            raise ValueError(
                "instance-name would send the names of all instances under "
                f"{self.instance_name!r}; whoever may push in any of them would replace those of "
                f"the others there. Say which instance is meant, as instances: {fix} does, in "
                "place of instance-name"
            )
        return self

    @model_validator(mode="after")
    def _secrets_need_tls(self) -> Self:
        if self.url.startswith(("http:", "grpc:")) and self.auth != AuthConfig():
            raise ValueError("auth needs TLS: an https or grpcs url")
        return self
