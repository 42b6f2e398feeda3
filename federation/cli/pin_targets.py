"""What the commands about pins are given: names, an action, an instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import click

from federation.cli.options import Place
from federation.cli.values import DigestType
from federation.core.digest import Digest
from federation.core.errors import InvalidRequest
from federation.core.pins import PinKind, PinTarget, check_target
from federation.server.status.explained import DIGEST, digest_in
from federation.wire.keyed_entry import action_of, split_name

F = TypeVar("F", bound=Callable[..., Any])
_NAMES = "[DIGEST|URI|NAMESPACE/KEY]..."


class PinChoice(NamedTuple):
    """A target, and what people call it."""

    target: PinTarget
    label: str


def target_options(function: F) -> F:
    """Add the names and options that say what is meant."""
    for option in (
        click.option(
            "--instance",
            help='Only entries of this instance name, which may be ""; alone: all of them.'
            "  [default: all instances]",
        ),
        click.option(
            "--action", type=DigestType(), multiple=True, help="The results of an action."
        ),
        click.argument("names", metavar=_NAMES, nargs=-1),
    ):
        function = option(function)
    return function


def chosen_targets(
    where: Place, names: Sequence[str], actions: Sequence[Digest], instance: str | None
) -> list[PinChoice]:
    """Return what the arguments mean. Raises UsageError."""
    try:
        found = [_of_name(where, name, instance) for name in names]
        found += [_of_action(action, instance, f"action {action}") for action in actions]
        if not found:
            # Without this, no argument at all would pin everything.
            if instance is None:
                raise click.UsageError(
                    "give a DIGEST, a URI, NAMESPACE/KEY, --action or --instance"
                )
            target = PinTarget(PinKind.INSTANCE, instance)
            found = [PinChoice(target, f"all of instance {instance!r}")]
        for each in found:
            check_target(each.target)
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from None
    return found


def _of_name(where: Place, name: str, instance: str | None) -> PinChoice:
    if (match := DIGEST.fullmatch(name)) is not None:
        if instance is not None:
            raise click.UsageError("blobs have no instance: all names of them are one blob")
        with where.operations.explaining() as explainer:
            digest = digest_in(match, explainer)
        if digest is None:
            raise click.UsageError("no blob with this hash is here; give HASH/SIZE")
        return PinChoice(PinTarget(PinKind.BLOB, digest=digest), str(digest))
    if (keyed := split_name(name)) is not None:
        namespace, key = keyed
        below = "" if namespace == "ac" else namespace  # where the HTTP cache keeps it
        return _of_action(action_of(namespace, key), below if instance is None else instance, name)
    return PinChoice(PinTarget(PinKind.ASSETS, instance, name), name)


def _of_action(action: Digest, instance: str | None, label: str) -> PinChoice:
    return PinChoice(PinTarget(PinKind.ACTION, instance, digest=action), label)
