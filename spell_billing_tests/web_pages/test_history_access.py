"""Who may read a user's data: the secret, a session, and the user's own link; nobody else, by no spelling."""

import json

from spell_billing_tests.proof.small_platform import SmallPlatform, bill_march
from spell_billing_tests.web.house import SECRET, House
from spell_billing_tests.web_pages.world import OpenDoors, api, token_of

ONE, TWO = "user-0001", "user-0002"
READ = ("invoices", "usage", "standing")


def test_a_user_reads_their_own_data_with_their_link(light_doors: House) -> None:
    token = token_of(light_doors, ONE)

    for what in READ:
        assert light_doors.ask("GET", api(ONE, f"{what}?token={token}")).status == 200
        assert light_doors.ask("GET", api(ONE, what), authorization=f"Bearer {token}").status == 200


def test_a_user_reads_nobody_else_s_data(light_doors: House) -> None:
    token = token_of(light_doors, ONE)
    tries = [
        TWO,
        "user-0001%2F..%2Fuser-0002",
        "user-0001 ",
        "USER-0001",
        "nobody",
        "",
        "user-0002%2Fusers%2Fuser-0001",
    ]

    for user in tries:
        for what in READ:
            answer = light_doors.ask("GET", f"/v1/users/{user.replace(' ', '%20')}/{what}?token={token}")
            assert answer.status in {401, 403, 404}, (user, what)
            assert "month" not in answer.text


def test_a_stranger_reads_nothing(light_doors: House) -> None:
    for what in READ:
        for query in ("", "?token=", "?token=x.y", f"?token={SECRET}", "?token=a&token=b"):
            answer = light_doors.ask("GET", api(ONE, what + query))
            assert (answer.status, set(answer.json)) == (401, {"error"}), query
        for header in ("Bearer ", "Bearer x", f"Bearer {SECRET}", "Basic x"):
            answer = light_doors.ask("GET", api(ONE, what), authorization=header)
            assert (answer.status, set(answer.json)) == (401, {"error"}), header


def test_a_link_that_is_over_reads_nothing(light_doors: House) -> None:
    token = token_of(light_doors, ONE, hours=1)
    light_doors.clock.pass_by(hours=1)

    answer = light_doors.ask("GET", api(ONE, f"usage?token={token}"))

    assert (answer.status, answer.json["error"]["code"]) == (401, "token_expired")


def test_a_wrong_secret_is_not_made_good_by_a_link(light_doors: House) -> None:
    token = token_of(light_doors, ONE)

    assert light_doors.ask("GET", api(ONE, f"usage?token={token}"), secret="wrong").status == 401


def test_a_link_makes_no_links(light_doors: House) -> None:
    token = token_of(light_doors, ONE)

    for answer in (
        light_doors.ask("POST", api(ONE, f"link?token={token}")),
        light_doors.ask("POST", api(ONE, "link"), authorization=f"Bearer {token}"),
        light_doors.ask("POST", api(ONE, "link")),
    ):
        assert (answer.status, set(answer.json)) == (401, {"error"})


def test_a_link_opens_no_other_door(light_doors: House) -> None:
    token = token_of(light_doors, ONE)

    for path in (
        "/billing",
        "/billing/2025-03",
        "/billing.csv",
        "/admin/billing/months",
        "/metrics",
        "/graphql",
    ):
        for headers in ({"authorization": f"Bearer {token}"}, {"cookie": f"spell_billing_session={token}"}):
            answer = light_doors.ask("GET", f"{path}?token={token}", **headers)
            assert answer.status in {303, 401}, path
        assert light_doors.ask("GET", path, secret=token).status in {401, 429}, path
        light_doors.clock.pass_by(hours=1)


def test_a_link_lasts_as_long_as_it_was_asked_for(light_doors: House) -> None:
    for hours, until in ((1, "2025-04-03T10:30:00+00:00"), (720, "2025-05-03T09:30:00+00:00")):
        answer = light_doors.admit("POST", api(ONE, "link"), json.dumps({"expires_in_hours": hours}))
        assert answer.json["expires_at"] == until


def test_a_link_lasts_a_day_unless_asked_otherwise(light_doors: House) -> None:
    for body in (None, "", "{}", " {} "):
        answer = light_doors.admit("POST", api(ONE, "link"), body)
        assert answer.json["expires_at"] == "2025-04-04T09:30:00+00:00", body


def test_a_wrong_order_makes_no_link(light_doors: House) -> None:
    hours = [{"expires_in_hours": each} for each in (0, 721, -1, 1.5, True, "24", None, [24])]
    others: tuple[object, ...] = ({"expires": 24}, [], "text", 24, None)
    orders = [json.dumps(each) for each in (*hours, *others)]
    for body in (*orders, "{", "\xff", "nope", '{"expires_in_hours": 1e400}', "[" * 60_000):
        answer = light_doors.admit("POST", api(ONE, "link"), body.encode("latin-1"))
        assert (answer.status, answer.json["error"]["code"]) == (422, "wrong_body"), body[:40]


def test_a_link_is_made_for_users_alone(light_doors: House) -> None:
    assert light_doors.admit("POST", api("nobody", "link")).status == 404


def test_a_link_leads_to_the_public_address(light_platform: SmallPlatform, open_doors: OpenDoors) -> None:
    bill_march(light_platform)
    with open_doors(light_platform, SPELL_BILLING_PUBLIC_URL="https://billing.example.com") as house:
        answer = house.admit("POST", api(ONE, "link"), host="evil.example.com")

    assert answer.json["url"].startswith("https://billing.example.com/u/")
