"""`/u/{token}/card`: from a link that `readiness` names to Stripe's page for adding a card."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from spell_billing.cli import main
from spell_billing.settings.billing import Settings
from spell_billing.stripe_double.other_endpoints import portal_session_json
from spell_billing.web.links import card_links
from spell_billing.web.settings import WebSettings
from spell_billing_tests.proof.small_platform import KEY, MARCH, SmallPlatform
from spell_billing_tests.stripe_double.shapes import require_shape
from spell_billing_tests.web.house import SECRET
from spell_billing_tests.web_pages.reading_pages import Page
from spell_billing_tests.web_pages.world import OpenDoors, token_of

ANNA = "anna"
PUBLIC = "https://billing.example.com"


@pytest.fixture
def settings(light_platform: SmallPlatform) -> dict[str, str]:
    """Give the settings of a platform whose only user has calls in March and no card."""
    light_platform.source.accounts([{"user_id": ANNA, "stripe_customer_id": "cus_anna"}])
    light_platform.double.add_customer("cus_anna", card="none")
    light_platform.calls(MARCH, (ANNA, 900))
    return {
        "STRIPE_API_KEY": KEY,
        "STRIPE_API_BASE": light_platform.double.base_url,
        "SPELL_BILLING_PUBLIC_URL": PUBLIC,
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_the_link_that_readiness_names_leads_to_stripe_s_page_for_a_card(
    light_platform: SmallPlatform,
    open_doors: OpenDoors,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    as_json: bool,
) -> None:
    named = {**settings, "DATABASE_URL": light_platform.url, "ADMIN_SECRET": SECRET}
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    arguments = ["readiness", "--month", "2025-03", *(["--json"] if as_json else [])]
    output = CliRunner().invoke(main, arguments).output
    link = json.loads(output)["unready"][0]["card_link"] if as_json else output.splitlines()[1].strip()

    with open_doors(light_platform, **settings) as house:
        answer = house.ask("GET", urlsplit(link).path)

    assert link.startswith(f"{PUBLIC}/u/")
    assert answer.status == 303
    assert answer.headers["location"].startswith("https://billing.stripe.com/p/session/")
    (session,) = light_platform.double.state.portal_sessions
    require_shape(session)
    back = link.removesuffix("/card")
    assert (session["customer"], session["return_url"]) == ("cus_anna", back)
    assert session["flow"]["type"] == "payment_method_update"
    assert session["flow"]["after_completion"]["redirect"] == {"return_url": back}
    assert light_platform.double.violations == []


def test_without_a_public_address_or_a_secret_readiness_names_no_link() -> None:
    for environment in ({"ADMIN_SECRET": SECRET}, {"SPELL_BILLING_PUBLIC_URL": PUBLIC}):
        assert card_links(WebSettings(environment), datetime.now(UTC)) is None


def test_the_link_is_good_for_thirty_days(open_doors: OpenDoors, light_platform: SmallPlatform) -> None:
    with open_doors(light_platform) as house:
        web = WebSettings({"ADMIN_SECRET": SECRET, "SPELL_BILLING_PUBLIC_URL": PUBLIC})
        link_of = card_links(web, house.clock())
        assert link_of is not None
        token = urlsplit(link_of(ANNA)).path.split("/")[2]

        for days, status in ((29, 200), (31, 410)):
            house.clock.now += timedelta(days=days) - timedelta(days=29 if days > 29 else 0)
            assert house.ask("GET", f"/u/{token}").status == status


def test_a_user_s_page_leads_there(
    light_platform: SmallPlatform, open_doors: OpenDoors, settings: dict[str, str]
) -> None:
    with open_doors(light_platform, **settings) as house:
        path = f"/u/{token_of(house, ANNA)}"
        page = Page(house.ask("GET", path).text)
        page.must_be_sound()
        assert page.links["Add or change your card"] == f"{path}/card"


def test_an_expired_link_and_one_that_is_not_ours_open_nothing(
    light_platform: SmallPlatform, open_doors: OpenDoors, settings: dict[str, str]
) -> None:
    with open_doors(light_platform, **settings) as house:
        expired = token_of(house, ANNA, hours=1)
        house.clock.now += timedelta(hours=2)
        answers = [house.ask("GET", f"/u/{token}/card") for token in (expired, "x")]

    assert [answer.status for answer in answers] == [410, 403]
    assert "This link has expired" in answers[0].text
    assert "This link is not valid" in answers[1].text
    assert light_platform.double.state.portal_sessions == []


def test_a_user_without_a_customer_is_sent_nowhere(
    light_platform: SmallPlatform, open_doors: OpenDoors, settings: dict[str, str]
) -> None:
    light_platform.source.accounts([{"user_id": "bert", "stripe_customer_id": " "}])

    with open_doors(light_platform, **settings) as house:
        answer = house.ask("GET", f"/u/{token_of(house, 'bert')}/card")

    assert answer.status == 404
    assert "no account to add a card to yet" in answer.text


def _portal_not_saved(platform: SmallPlatform) -> None:
    platform.double.state.portal_saved = False


def _stripe_silent(platform: SmallPlatform) -> None:
    platform.double.arm("error_500_unstored", operation="billing_portal.sessions.create", times=10)


def _customer_gone(platform: SmallPlatform) -> None:
    platform.sql("UPDATE billing_accounts SET stripe_customer_id = 'cus_nowhere'")


@pytest.mark.parametrize("happens", [_portal_not_saved, _stripe_silent, _customer_gone])
def test_what_stripe_refuses_is_a_page_that_says_so_and_a_line_in_the_log(
    light_platform: SmallPlatform,
    open_doors: OpenDoors,
    settings: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    happens: Any,
) -> None:
    with open_doors(light_platform, **settings) as house:
        token = token_of(house, ANNA)
        happens(light_platform)
        answer = house.ask("GET", f"/u/{token}/card")

    assert answer.status == 503
    assert "Stripe's page cannot be opened now" in Page(answer.text).text.replace("&#39;", "'")
    assert "page for adding a card is not shown" in caplog.text
    assert KEY not in caplog.text


def test_a_browser_is_sent_on_to_https_alone(
    light_platform: SmallPlatform,
    open_doors: OpenDoors,
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def elsewhere(*arguments: Any) -> dict[str, Any]:
        return {**portal_session_json(*arguments), "url": "javascript:alert(1)"}

    monkeypatch.setattr("spell_billing.stripe_double.other_endpoints.portal_session_json", elsewhere)
    with open_doors(light_platform, **settings) as house:
        answer = house.ask("GET", f"/u/{token_of(house, ANNA)}/card")

    assert answer.status == 503
    assert "location" not in answer.headers


@pytest.mark.usefixtures("settings")
def test_a_server_without_stripe_s_key_offers_no_such_page(
    light_platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    with open_doors(light_platform) as house:
        path = f"/u/{token_of(house, ANNA)}"

        assert "Add or change your card" not in house.ask("GET", path).text
        assert house.ask("GET", f"{path}/card").status != 303
    assert not Settings({}).has_stripe_api_key
