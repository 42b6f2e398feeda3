"""Rules about certificates compare parts with parts, and names with names of their kind."""

from __future__ import annotations

import re

import pytest

from federation.config.certificate_patterns import NamePattern, SubjectPattern

CN, O, OU = "2.5.4.3", "2.5.4.10", "2.5.4.11"  # noqa: E741 - as it is written


@pytest.mark.parametrize(
    ("pattern", "parts", "fits"),
    [
        ("CN=ci-*,O=Example", [[(CN, "ci-1")], [(O, "Example")]], True),
        ("CN=ci-*,O=Example", [[(CN, "ci-evil,O=Example")]], False),
        ("CN=ci-*,O=Example", [[(CN, "ci-1")], [(O, "Other")], [(O, "Example")]], False),
        ("CN=ci-*,O=Example", [[(O, "Example")], [(CN, "ci-1")]], False),
        ("CN=ci-*,O=Example", [[(CN, "ci-1"), (O, "Example")]], False),
        ("CN=ci-*+O=Example", [[(O, "Example"), (CN, "ci-1")]], True),
        ("CN=ci-*+CN=x", [[(CN, "ci-1"), (CN, "x")]], False),
        ("CN=ci-*", [[(CN, "ci-1")], [(O, "Example")]], False),
        ("CN=ci-*,*", [[(CN, "ci-1")], [(OU, "x")], [(O, "Example")]], True),
        ("CN=ci-*,*", [[(CN, "ci-1")]], True),
        ("*,O=Example", [[(CN, "ci-1")], [(OU, "x")], [(O, "Example")]], True),
        ("*,O=Example,*", [[(CN, "ci-1")], [(O, "Example")], [(OU, "x")]], True),
        ("*,O=Example", [[(CN, "ci-1,O=Example")]], False),
        ("*", [], True),
        ("*", [[(CN, "anybody")]], True),
        ("cn=a, o=b", [[(CN, "a")], [(O, "b")]], True),
        ("2.5.4.3=a", [[(CN, "a")]], True),
        ("emailAddress=*@x", [[("1.2.840.113549.1.9.1", "a@x")]], True),
        (r"O=Example\, Inc.", [[(O, "Example, Inc.")]], True),
        (r"O=Example\, Inc.", [[(O, "Example")]], False),
        (r"CN=\*", [[(CN, "*")]], True),
        (r"CN=\*", [[(CN, "a")]], False),
        (r"CN=\2A", [[(CN, "a")]], False),
        (r"CN=Ren\C3\A9", [[(CN, "René")]], True),
        (r"CN=a\ ", [[(CN, "a ")]], True),
        ("CN=a", [[(CN, "A")]], False),
        ("CN=a", [[(CN, "a\n")]], False),
    ],
)
def test_a_subject_is_compared_part_by_part(
    pattern: str, parts: list[list[tuple[str, str]]], fits: bool
) -> None:
    assert SubjectPattern(pattern).matches(parts) is fits


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("ci-*", "no TYPE=VALUE"),
        ("*O=Example", "no TYPE=VALUE"),
        ("CN=a,,O=b", "no TYPE=VALUE"),
        ("NICK=a", "no TYPE=VALUE"),
        ('CN="a"', 'write \\"'),
        ("CN=a;O=b", "write \\;"),
        ("CN=#0401", "in hex"),
        ("CN=a\\", "a backslash"),
        (r"CN=\C3", "no UTF-8"),
    ],
)
def test_a_subject_that_cannot_be_meant_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        SubjectPattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "kind", "name", "fits"),
    [
        ("*.ci.example", "dns", "a.ci.example", True),
        ("*.ci.example", "dns", "A.CI.example", True),
        ("*.ci.example", "uri", "http://evil/.ci.example", False),
        ("*.ci.example", "email", "evil@x.ci.example", False),
        ("dns:*.ci.example", "dns", "a.ci.example", True),
        ("uri:spiffe://x/*", "uri", "spiffe://x/build", True),
        ("uri:spiffe://x/*", "dns", "spiffe://x/build", False),
        ("email:*@example.com", "email", "a@example.com", True),
        ("ip:10.0.0.0/24", "ip", "10.0.0.7", True),
        ("ip:10.0.0.0/24", "ip", "10.0.1.7", False),
        ("ip:10.0.0.*", "ip", "10.0.0.7", True),
        ("ip:10.0.0.7", "dns", "10.0.0.7", False),
        ("*", "dns", "a", True),
        ("*", "uri", "urn:a", False),
    ],
)
def test_a_name_is_compared_with_names_of_its_kind(
    pattern: str, kind: str, name: str, fits: bool
) -> None:
    assert NamePattern(pattern).matches(kind, name) is fits


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("spiffe://x/*", "uri:spiffe://x/*"),
        ("*@example.com", "email:*@example.com"),
        ("10.0.0.7", "ip:10.0.0.7"),
        ("dns:", "no pattern"),
    ],
)
def test_a_name_of_no_kind_that_is_none_of_dns_is_refused_with_the_fix(
    pattern: str, says: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        NamePattern(pattern)
