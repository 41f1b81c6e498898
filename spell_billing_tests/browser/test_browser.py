"""A person at a real browser: launching a month, looking at bills, and what a stranger sees."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from spell_billing_tests.triggering.served import Served

OPEN_PAGE = Callable[..., Page]
SIGN_IN = Callable[[Page], None]
PHONE = {"width": 360, "height": 740}
_RUN_MS = 120_000
"""A run of a month, on a machine that runs other tests beside it."""
AXE = Axe()
"""What finds barriers to those who do not see the page, or have no pointer: axe-core."""
LOW_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [x, y, z] = [r, g, b].map((c) => linear(c / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const color = rgba(getComputedStyle(each).backgroundColor);
      if (color[3] === 255) return color;
    }
    return rgba(getComputedStyle(document.documentElement).colorScheme.includes('dark')
      && matchMedia('(prefers-color-scheme: dark)').matches ? 'rgb(18, 18, 18)' : 'white');
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const ink = node.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [a, b] = [light(rgba(ink)), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`${node.tagName}: ${texts.currentNode.textContent.trim()}`);
  }
  return found;
}"""
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.body.querySelectorAll('*')]
    .filter((each) => each.getBoundingClientRect().right > width && !each.closest('.scroll > *'))
    .map((each) => each.outerHTML.slice(0, 120));
}"""


def user_link(served: Served, user_id: str) -> str:
    return str(served.ask(f"/v1/users/{user_id}/link", {})["url"])


def test_a_month_is_launched_in_dagsters_pages_and_its_bills_are_looked_at(
    served: Served, open_page: OPEN_PAGE, sign_in: SIGN_IN
) -> None:
    served.usage("2025-01", {"user-0001": 100, "user-0002": 250})
    page = open_page(viewport={"width": 1400, "height": 900})
    page.goto("/locations/spell_billing/jobs/monthly_billing")
    expect(page).to_have_title("Sign in - Spell billing")
    sign_in(page)
    expect(page).to_have_url(re.compile(r"/locations/spell_billing/jobs/monthly_billing$"))

    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("button", name="Show all partitions").click()
    months = page.get_by_placeholder("ex: 2025-01-01")
    months.fill("2025-01-01")
    months.press("Enter")
    page.get_by_role("button", name="Launch 1 run").click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    page.get_by_text("View", exact=True).click()
    expect(page).to_have_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    run_path = urlsplit(page.url).path
    expect(page.get_by_text("partition: 2025-01-01")).to_be_visible()
    # It comes by the websocket: the page is not loaded again.
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible(timeout=_RUN_MS)
    expect(page.get_by_text("Success", exact=True)).to_be_visible()
    assert sorted(invoice.total_cents for invoice in served.invoices("2025-01")) == [100, 250]
    assert served.double.violations == []

    page.goto("/billing")
    row = page.get_by_role("row", name="January 2025").filter(has=page.get_by_role("rowheader"))
    # The further the present is from the month, the more pages of months lie between.
    while row.count() == 0:
        page.get_by_role("link", name="Older months").click()
        page.wait_for_load_state()
    expect(row).to_contain_text("Billed")
    expect(row).to_contain_text("$3.50")
    row.get_by_role("link", name="January 2025", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("January 2025")
    assert page.locator(f'a[href="{run_path}"]').count() == 1, "the run in Dagster is one click away"
    page.get_by_label("Search", exact=True).fill("user-0002")
    page.get_by_role("button", name="Search").click()
    users = page.get_by_role("region", name="Users")
    expect(users.get_by_role("link")).to_have_text(["user-0002"])
    users.get_by_role("link", name="user-0002").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("user-0002")
    expect(page.get_by_text("$2.50").first).to_be_visible()


def test_a_user_sees_the_own_page_by_link_and_nothing_else(served: Served, open_page: OPEN_PAGE) -> None:
    page = open_page(java_script_enabled=False)
    page.goto(user_link(served, "user-0001"))

    expect(page.get_by_role("heading", level=1)).to_have_text("Your invoices")
    expect(page.get_by_text("user-0001")).to_be_visible()
    march = page.get_by_role("listitem").filter(has_text="March 2025")
    expect(march).to_contain_text("$12.34")
    expect(page.get_by_role("img", name=re.compile("Cost"))).to_be_visible()
    assert "user-0002" not in page.content()

    own, other = page.url, user_link(served, "user-0002")
    mixed = own[: own.rindex(".")] + other[other.rindex(".") :]
    for changed in (
        mixed,
        own[:-1] + ("A" if own[-1] != "A" else "B"),
        f"{own}x",
        f"{served.url}/u/user-0002",
    ):
        answer = page.request.get(changed)
        assert answer.status in {401, 403, 404}, changed
        assert "user-0002" not in answer.text()
    page.goto("/billing/2025-03")
    expect(page).to_have_title("Sign in - Spell billing")


@pytest.mark.parametrize(
    "path", ["/", "/billing", "/billing/2025-03", "/runs", "/assets", "/locations", "/openapi.json"]
)
def test_a_stranger_sees_nothing_but_the_page_to_sign_in(open_page: OPEN_PAGE, path: str) -> None:
    page = open_page()
    page.goto(path)

    expect(page).to_have_title("Sign in - Spell billing")
    text = page.locator("body").inner_text()
    assert "user-0" not in text
    assert "monthly_billing" not in text


def test_a_strangers_programs_are_refused_too(served: Served, open_page: OPEN_PAGE) -> None:
    page = open_page()
    page.goto("/login")
    query = {"query": "{ version }"}

    for headers in ({}, {"Origin": "https://elsewhere.example.com"}):
        assert page.request.post("/graphql", data=query, headers=headers).status == 401
    for path in (
        "/graphql?query={version}",
        "/admin/billing/months",
        "/v1/users/user-0001/invoices",
        "/metrics",
    ):
        assert page.request.get(path).status == 401, path
    assert page.request.post("/report_asset_materialization/raw_usage", data={}).status == 401
    assert page.request.post("/admin/billing/process-monthly", data={"month": "2025-02"}).status == 401
    assert served.runs("2025-02") == []


def test_a_cookie_that_was_changed_or_signed_out_opens_nothing(
    open_page: OPEN_PAGE, sign_in: SIGN_IN
) -> None:
    page = open_page()
    page.goto("/login?next=/billing")
    sign_in(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Billing overview")
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] in {"Lax", "Strict"}
    assert page.evaluate("document.cookie") == ""

    value = str(cookie["value"])
    for position in (0, len(value) // 2, len(value) - 2):
        letter = "A" if value[position] != "A" else "B"
        put(page, cookie, value[:position] + letter + value[position + 1 :])
        page.goto("/billing")
        expect(page).to_have_title("Sign in - Spell billing")

    put(page, cookie, value)
    page.goto("/billing")
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_title("Sign in - Spell billing")
    assert page.context.cookies() == []
    put(page, cookie, value)
    page.goto("/billing")
    expect(page).to_have_title("Sign in - Spell billing")


def put(page: Page, cookie: Any, value: str) -> None:
    page.context.clear_cookies()
    page.context.add_cookies([{"name": cookie["name"], "value": value, "url": page.url}])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_and_can_be_read_in_light_and_dark(
    served: Served, open_page: OPEN_PAGE, sign_in: SIGN_IN, scheme: str
) -> None:
    page = open_page(viewport=PHONE, color_scheme=scheme)
    grounds = set()
    for path in (
        "/login?next=/billing",
        "/billing",
        "/billing/2025-03",
        "/billing/2025-03/users/user-0001",
        "/billing/2025-03/users/user-0009",
        user_link(served, "user-0001"),
        "/logout",
    ):
        page.goto(path)
        if path.startswith("/login"):
            look(page, path)
            sign_in(page)
            expect(page.get_by_role("heading", level=1)).to_have_text("Billing overview")
        look(page, path)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    (ground,) = grounds
    channels = [int(number) for number in re.findall(r"\d+", ground)]
    assert (max(channels) < 64) == (scheme == "dark"), ground


def look(page: Page, path: str) -> None:
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate(TOO_WIDE) == [], f"{path} scrolls sideways"
    assert page.evaluate(LOW_CONTRAST) == [], path
    found = AXE.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], path
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1


def test_a_month_in_review_is_approved_by_keyboard_and_then_sent(
    served: Served, open_page: OPEN_PAGE, sign_in: SIGN_IN
) -> None:
    served.usage("2025-04", {"user-0001": 15_000})
    kept = served.trigger("--month", "2025-04", "--wait")
    assert kept.end() == 3, kept.output
    assert served.invoices("2025-04") == []
    page = open_page(java_script_enabled=False)
    page.goto("/billing/2025-04")
    sign_in(page)
    expect(page.get_by_text("In review, waiting for approval")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="is far from")).to_contain_text("$150.00")

    page.get_by_label("Why it is right").focus()
    page.keyboard.type("a large new contract")
    page.keyboard.press("Enter")

    expect(page.get_by_role("status")).to_have_text("Approved. The next billing run sends the month.")
    expect(page.get_by_text("a large new contract").first).to_be_visible()
    expect(page.get_by_role("button", name="Approve these drafts")).to_have_count(0)
    sent = served.trigger("--month", "2025-04", "--wait")
    assert sent.end() == 0, sent.output
    assert [invoice.total_cents for invoice in served.invoices("2025-04")] == [15_000]
