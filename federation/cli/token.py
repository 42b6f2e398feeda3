"""federation token: create, list and revoke access tokens."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from federation.access.new_files import alone, replace_file
from federation.access.rights import Role
from federation.access.tokens import (
    RANDOM_BYTES,
    TOKENS_MAX_BYTES,
    Token,
    make_token,
    parse_tokens,
    without_token,
)
from federation.cli.command import EXIT_CODES, FILE, Command, config_option, json_option
from federation.cli.output import emit, emit_json
from federation.config.file import load
from federation.config.types import format_duration, parse_duration
from federation.core.clock import SystemClock, utc_text
from federation.core.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any] | click.Command)
_MODE = 0o640  # it has no secrets, but decides who may do what


_EXAMPLES = """\b
Examples:
  federation token new --role push --name ci --expires 90d --file /etc/federation/tokens
  federation token list --config /etc/federation.yaml
"""


@click.group(epilog=f"{_EXAMPLES}\n{EXIT_CODES}", context_settings={"max_content_width": 100})
def token() -> None:
    """Create, list and revoke access tokens, for clients without certificates.

    The file has the hash of each token, one a line. A running node takes over a change within 2 s.
    """


def _file_options(function: F) -> F:
    for option in (
        config_option("Use the file that this configuration names (auth.tokens)."),
        click.option(
            "--file",
            "file_path",
            type=FILE,
            help="The file with the tokens' hashes.  [default: tokens]",
        ),
    ):
        function = option(function)
    return function


@token.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  federation token new --role push --name ci --expires 90d --file /etc/federation/tokens\n"
    "  federation token new --role pull --instance 'teams/a/*' --config /etc/federation.yaml\n",
)
@click.option(
    "--role",
    type=click.Choice([role.name.lower() for role in Role]),
    required=True,
    help="What the token allows; each role includes those before it.",
)
@click.option(
    "--instance",
    "instances",
    multiple=True,
    metavar="PATTERN",
    help="Instance names that it allows; can be repeated.  [default: *]",
)
@click.option("--name", help="Name of its holder in logs.")
@click.option(
    "--expires", metavar="DURATION", help="How long it is valid, e.g. 90d.  [default: without end]"
)
@_file_options
@json_option
def new(
    role: str,
    instances: tuple[str, ...],
    name: str | None,
    expires: str | None,
    file_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Create a token, add its hash to the file, and print the token. It cannot be shown again."""
    where = _file(file_path, config_path)
    now_s = SystemClock().wall_s()
    lasts_s = _duration(expires)
    made = make_token(
        Role.named(role),
        secrets.token_bytes(RANDOM_BYTES),
        now_s,
        instances=instances or ("*",),
        name=name,
        expires_after_s=lasts_s,
    )
    with alone(where.parent):
        before = _read(where) if where.exists() else b""
        # Checked before anything is added, so that an error is not taken for the new line's.
        parse_tokens(before, str(where))
        # Somebody may have edited the file, and left the last line open.
        joint = b"" if not before or before.endswith(b"\n") else b"\n"
        after = before + joint + made.line.encode() + b"\n"
        (*_, last) = parse_tokens(after, str(where))
        _write(where, after)
    if as_json:
        emit_json({"token": made.text, "file": str(where), **_facts(last)})
        return
    lasts = "without end" if lasts_s is None else f"for {format_duration(lasts_s)}"
    # On standard error, so that a script's standard output is the token alone.
    click.echo(f"{where}: added token {made.id}, valid {lasts}", err=True)
    click.echo(made.text)


@token.command("list", cls=Command, epilog="\b\nExample:\n  federation token list --file tokens")
@_file_options
@json_option
def list_tokens(file_path: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Show what each token of the file allows."""
    where = _file(file_path, config_path)
    found = parse_tokens(_read(where), str(where))
    emit({"file": str(where), "tokens": [_facts(each) for each in found]}, as_json=as_json)


@token.command(
    cls=Command, epilog="\b\nExample:\n  federation token revoke 0a1b2c3d4e5f --file tokens"
)
@click.argument("number", metavar="ID")
@_file_options
@json_option
def revoke(number: str, file_path: Path | None, config_path: Path | None, as_json: bool) -> None:
    """Remove a token from the file; it is no longer valid.

    ID is the one that `federation token list` shows.
    """
    where = _file(file_path, config_path)
    with alone(where.parent):
        before = _read(where)
        gone = next((x for x in parse_tokens(before, str(where)) if x.id == number), None)
        if gone is None:
            raise ConfigError(
                f"{where}: no token with the ID {number}; see `federation token list`"
            )
        _write(where, without_token(before, number))
    if as_json:
        emit_json({"file": str(where), "revoked": _facts(gone)})
    else:
        click.echo(f"{where}: {gone.identity} is no longer valid")


def _file(file_path: Path | None, config_path: Path | None) -> Path:
    if config_path is None:
        return (file_path or Path("tokens")).resolve()  # a symbolic link stays a link
    if file_path is not None:
        raise click.UsageError("give either --file or --config")
    listeners = load(config_path).listeners
    files = {x.auth.tokens for x in listeners if x.auth and x.auth.tokens}
    if len(files) != 1:
        named = ", ".join(sorted(map(str, files))) or "no file of tokens"
        raise ConfigError(f"{config_path}: its listeners name {named}: say which with --file")
    return files.pop().resolve()


def _duration(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"--expires: {error}") from None
    if not 0 < seconds < 1e10:
        raise ConfigError("--expires: must be more than 0 and less than 300 years")
    return seconds


def _read(where: Path) -> bytes:
    with where.open("rb") as file:
        return file.read(TOKENS_MAX_BYTES + 1)


def _write(where: Path, data: bytes) -> None:
    mode = where.stat().st_mode & 0o7777 if where.exists() else _MODE
    replace_file(where, data, mode)


def _facts(each: Token) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name or None,
        "role": each.role.name.lower(),
        "instances": list(each.instances.patterns),
        "expires": None if each.until_s is None else utc_text(each.until_s),
    }
