"""Signed links: one user, one purpose, one spelling, until one moment."""

from datetime import UTC, datetime, timedelta

import pytest
from itsdangerous import URLSafeSerializer
from pydantic import SecretStr

from spell_billing.web.keys import derive_key
from spell_billing.web.links import PURPOSE, Link, Links
from spell_billing.web.login import PURPOSE as SESSION
from spell_billing.web.login import Sessions
from spell_billing.web.middleware import LONGEST_PATH

NOW = datetime(2025, 4, 3, 9, 30, tzinfo=UTC)
SECRET = SecretStr("a-secret-of-the-tests-0001")
LATER = NOW + timedelta(hours=1)


def links(secret: SecretStr = SECRET, purpose: str = PURPOSE, now: datetime = NOW) -> Links:
    return Links(derive_key(secret, purpose), lambda: now)


def test_a_token_says_whose_it_is_and_until_when() -> None:
    assert links().read(links().make("user-0001", LATER)) == Link("user-0001", LATER, is_over=False)


def test_a_token_is_over_at_the_very_second_it_names() -> None:
    token = links().make("user-0001", LATER)

    assert not links(now=LATER - timedelta(microseconds=1)).read(token).is_over  # type: ignore[union-attr]
    assert links(now=LATER).read(token).is_over  # type: ignore[union-attr]


def test_no_changed_token_opens_anything() -> None:
    token = links().make("user-0001", LATER)
    letters = "AZaz09-_.="
    changed = {
        *(token[:place] + letter + token[place + 1 :] for place in range(len(token)) for letter in letters),
        *(token[:place] for place in range(len(token))),
        *(token + letter for letter in letters),
        *(letter + token for letter in letters),
        token.swapcase(),
    } - {token}

    assert [each for each in changed if links().read(each) is not None] == []


@pytest.mark.parametrize("token", [None, "", "a", "a.b", "..", "ä" * 10, "A" * 9_000, ".AAAA.BBBB"])
def test_what_is_no_token_opens_nothing(token: str | None) -> None:
    assert links().read(token) is None


def test_a_token_of_another_secret_or_purpose_opens_nothing() -> None:
    session_key = derive_key(SECRET, SESSION)
    _, cookie = Sessions(session_key, lambda: NOW).begin()
    forged = URLSafeSerializer(session_key, salt=PURPOSE).dumps(["user-0001", int(LATER.timestamp())])

    assert links().read(links(SecretStr("another-secret-0000")).make("user-0001", LATER)) is None
    assert links().read(links(purpose=SESSION).make("user-0001", LATER)) is None
    assert links().read(cookie) is None
    assert links().read(str(forged)) is None


def test_a_token_signs_nobody_in() -> None:
    token = links().make("user-0001", LATER)

    assert Sessions(derive_key(SECRET, SESSION), lambda: NOW).read(token) is None


@pytest.mark.parametrize(
    "user_id", ["a/b", "ü ñ", "用户" * 250, "😀" * 300, "x" * 500, "", "\x00\n", '"],[1']
)
def test_odd_ids_come_back_as_they_were_and_fit_into_an_address(user_id: str) -> None:
    token = links().make(user_id, LATER)

    assert links().read(token) == Link(user_id, LATER, is_over=False)
    assert len(f"/u/{token}") <= LONGEST_PATH
