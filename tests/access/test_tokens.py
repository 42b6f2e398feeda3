"""A static token opens what its line says, and nothing that merely looks like it opens anything."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.access.rights import Role
from federation.access.tokens import (
    RANDOM_BYTES,
    TOKENS_MAX_BYTES,
    NewToken,
    TokenTable,
    make_token,
    parse_tokens,
)
from federation.core.errors import ConfigError

NOW_S = 1_800_000_000.0


def made(seed: int = 1, role: Role = Role.PUSH, **kwargs: Any) -> NewToken:
    return make_token(role, bytes([seed]) * RANDOM_BYTES, NOW_S, **kwargs)


def table(*tokens: NewToken) -> TokenTable:
    return parse_tokens("\n".join(token.line for token in tokens).encode(), "here")


def test_what_was_made_is_found_again_with_all_that_was_said() -> None:
    token = made(instances=("ci", "teams/*"), name="runner", expires_after_s=3600)
    found = table(made(2), token).find(token.text)
    assert found is not None
    assert (found.id, found.role, found.name) == (token.id, Role.PUSH, "runner")
    assert found.instances.patterns == ("ci", "teams/*")
    assert found.until_s == NOW_S + 3600
    assert found.identity == f"token runner ({token.id})"


def test_a_token_without_more_is_for_every_instance_and_for_ever() -> None:
    found = table(made()).find(made().text)
    assert found is not None
    assert "anything" in found.instances
    assert found.until_s is None
    assert found.identity == f"token {found.id}"


def test_the_file_holds_no_secret() -> None:
    token = made(name="x")
    secret = token.text.rpartition("_")[2]
    assert secret not in token.line
    assert token.text not in repr(table(token)) + str(list(table(token)))


def test_a15_whatever_differs_in_one_character_opens_nothing() -> None:
    token = made()
    tokens = table(token)
    for at in range(len(token.text)):
        other = "B" if token.text[at] != "B" else "C"
        assert tokens.find(token.text[:at] + other + token.text[at + 1 :]) is None
        assert tokens.find(token.text[:at]) is None
    for other in ("", token.text + "A", token.text + "\n", " " + token.text, "x" * 65536):
        assert tokens.find(other) is None
    assert tokens.find(made(3).text) is None


@given(st.text(max_size=80))
def test_a15_no_text_makes_trouble(shown: str) -> None:
    assert table(made()).find(shown) is None


def test_comments_empty_lines_and_line_ends_are_fine() -> None:
    text = f"# tokens\r\n\r\n  {made().line}  \r\n"
    assert len(parse_tokens(text.encode(), "here")) == 1
    assert len(parse_tokens(b"", "here")) == 0


def without(*keys: str, **more: object) -> bytes:
    facts = {k: v for k, v in json.loads(made().line).items() if k not in keys}
    return json.dumps({**facts, **more}).encode()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "here:2: not one JSON object, as `federation token new` writes it"),
        (b"[1]", "here:2: not one JSON object"),
        (b"\xff", "here:2: not one JSON object"),
        (b"[" * 100_000, "here:2: not one JSON object"),
        (without("sha256"), "here:2: sha256: missing; a line is one JSON object"),
        (without(role="root"), "here:2: role: must be pull, push, peer or admin"),
        (without(roles="push"), "here:2: roles: unknown key"),
        (without(instances=[]), "here:2: instances: must not be empty"),
        (without(instances="*"), "here:2: instances: must be a list"),
        (without(expires="tomorrow"), "here:2: expires: "),
        (without(expires="2027-01-01T00:00:00"), "here:2: expires: "),
        (without(sha256="00"), "here:2: sha256: "),
        (made(1).line.encode(), f"here:2: id {made(1).id} is there twice"),
        (made(5).text.encode(), "here:2: a token itself, which does not belong here"),
        (b"#" * (TOKENS_MAX_BYTES + 1), "here: larger than"),
    ],
)
def test_a_line_that_is_wrong_spoils_the_file_and_is_named(line: bytes, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_tokens(made(1).line.encode() + b"\n" + line, "here")
    assert str(refused.value).startswith(says)
    assert len(str(refused.value)) < 300


def test_a15_an_error_never_repeats_what_stands_in_the_file() -> None:
    token = made(5)
    for line in (token.text, without(sha256=token.text).decode(), f"Bearer {token.text}"):
        with pytest.raises(ConfigError) as refused:
            parse_tokens(line.encode(), "here")
        assert token.text.rpartition("_")[2] not in str(refused.value)


def test_texts_make_tables_equal() -> None:
    assert table(made()) == table(made())
    assert table(made()) != table(made(2))
