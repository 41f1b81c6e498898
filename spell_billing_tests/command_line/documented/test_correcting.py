"""Commands by which a person corrects, settles, gives back and grants, as the pages write them."""

import json

from spell_billing_tests.command_line.documented.shell import Shell

ADA, BOB = {r"\bID\b": "ada"}, {r"\bID\b": "bob"}


def test_a_wrong_bill_is_recovered_from(shell: Shell) -> None:
    shop = shell.shop
    shop.accounts("ada", "bob", "u-20")
    shop.double.add_customer("cus_ada", card="none")
    shop.calls("2024-10", ("ada", 5000), ("bob", 700), ("u-20", 1000))
    shell.run("spell-billing bill --month 2026-10")

    shell.run('spell-billing void --month 2026-10 --user ID --reason "..."', ADA)
    shell.run("spell-billing bill --month 2026-10")
    shell.run('spell-billing credit --month 2026-10 --user ID --cents 500 --reason "..."', ADA)
    shell.run('spell-billing credit --month 2026-10 --user u-20 --cents 500 --reason "outage of 3 October"')
    shell.run(
        "spell-billing mail-preview --month 2026-10 --user ID --template credited --html",
        {r"\bID\b": "u-20"},
    )
    shell.run("spell-billing reconcile --month 2026-10")


def test_bills_are_held_and_released(shell: Shell) -> None:
    shop = shell.shop
    shop.accounts("ada", "bob")
    shop.calls("2024-10", ("ada", 500), ("bob", 700))
    shop.double.add_customer("cus_bob", card="none")
    held = shop.run("bill", "--month", "2024-10", "--first", "1")
    assert held.returncode == 3
    waits = {r"\bID\b": "bob" if shop.double.invoices()[0].customer == "cus_ada" else "ada"}

    shell.run('spell-billing hold --month 2026-10 --user ID --reason "..."', waits)
    shell.run("spell-billing release --month 2026-10 --user ID", waits)
    shell.run("spell-billing hold --month 2026-10 --user ID", waits)
    shell.run("spell-billing hold --month 2026-10 --all")
    shell.run("spell-billing release --month 2026-10 --user ID", waits)
    shell.run("spell-billing bill --month 2026-10")


def test_bills_that_were_dealt_with_elsewhere_are_settled(shell: Shell) -> None:
    shop = shell.shop
    shop.accounts("ada", "u-19")
    shop.execute("UPDATE billing_accounts SET currency = 'eur' WHERE user_id = 'u-19'")
    shop.calls("2024-09", ("ada", 900), ("u-19", -500))
    assert shop.run("bill", "--month", "2024-09").returncode == 0
    shop.execute("UPDATE billing_accounts SET currency = 'usd'")
    shop.calls("2024-10", ("ada", 900), ("bob", 30), ("u-17", 300), ("u-18", 200), ("u-19", 700))
    shell.run("spell-billing bill --month 2026-10", ends=3)

    shell.run(
        'spell-billing settle --month 2026-10 --user u-17 --as billed-by-hand --reason "invoice '
        '2026-331, by transfer"'
    )
    shell.run('spell-billing settle --month 2026-10 --user u-18 --as written-off --reason "test account"')
    shell.run('spell-billing settle --month 2026-10 --user u-19 --credit eur --reason "refunded by transfer"')
    shell.run('spell-billing settle --month 2026-10 --user ID --as billed-by-hand --reason "..."', BOB)
    shell.run("spell-billing bill --month 2026-10")

    assert shop.json("status", "--month", "2024-10")["state"] == "billed"


def test_money_that_was_given_back_already_is_answered_in_both_ways(shell: Shell) -> None:
    shop = shell.shop
    shop.extra |= (rules := {"REVIEW_PAST_PERCENT": "100", "REVIEW_MONTH_PERCENT": "100,9999"})
    shell.environment |= rules
    shop.accounts("ada", "bob")
    shop.calls("2024-10", ("ada", 400), ("ada", 600), ("bob", 300), ("bob", 600))
    shell.run("spell-billing bill --month 2026-10")
    for user in (ADA, BOB):
        shell.run('spell-billing credit --month 2026-10 --user ID --cents 500 --reason "..."', user)
    shop.execute("DELETE FROM usage_counters WHERE cost_cents = 600")
    shop.calls("2024-11", ("ada", 900), ("bob", 900))
    assert shop.run("bill", "--month", "2024-11").returncode == 3

    shell.run("spell-billing release --month 2026-11 --user ID", ADA)
    shell.run('spell-billing settle --month 2026-10 --user ID --given-back correction --reason "..."', BOB)
    assert shop.run("bill", "--month", "2024-11").returncode == 0


def test_a_whole_month_is_taken_back(shell: Shell) -> None:
    shop = shell.shop
    shop.accounts("ada", "bob")
    shop.double.add_customer("cus_bob", card="declined")
    shop.calls("2024-10", ("ada", 400), ("bob", 300))
    shell.run("spell-billing bill --month 2026-10")
    shell.run("spell-billing bill --month 2026-10 --verify")

    shell.run('spell-billing void --month 2026-10 --everybody --for-good --reason "..."', ends=3)
    shell.run('spell-billing credit --month 2026-10 --everybody --all --reason "..."')

    assert [each.status for each in shop.double.invoices()] == ["paid", "void"]
    assert [note.amount_cents for note in shop.double.state.credit_notes] == [400]


def test_grants_are_given_listed_and_revoked(shell: Shell) -> None:
    shop = shell.shop
    shop.accounts("ada", "user-0001")
    shell.run(
        "spell-billing grant --user ada --cents 5000 --expires 2027-12-01 --id order-1 --reason "
        '"bought 50 dollars" --paid'
    )
    shell.run(
        "spell-billing grant --user ada --cents 500 --expires 2027-12-01 --id welcome-1 --reason "
        '"sign-up credit"'
    )
    shell.run(
        "spell-billing grant --user ID --cents 2000 --expires 2027-01-01 --id order-1001 --reason "
        '"..." --paid',
        ADA,
    )
    shell.run(
        "spell-billing grant --user user-0001 --cents 500 --expires 2027-01-01 --id welcome-4711 "
        '--reason "sign-up offer"'
    )
    assert "welcome-4711" in shell.run("spell-billing grants --user user-0001")
    shell.run('spell-billing revoke-grant --id welcome-4711 --reason "account was a duplicate"')

    left = {each["grant_id"]: each["left_cents"] for each in shop.json("grants")}
    assert left == {"order-1": 5000, "welcome-1": 500, "order-1001": 2000, "welcome-4711": 0}


def test_a_user_moves_and_another_is_forgotten(shell: Shell) -> None:
    shop = shell.shop
    shop.accounts("old", "new", "leaver", "other")
    shop.calls("2024-10", ("old", 500), ("leaver", 700), ("other", 800))
    assert shop.run("bill", "--month", "2024-10").returncode == 0
    shop.execute("UPDATE usage_counters SET user_id = 'new' WHERE user_id = 'old'")
    shell.run(
        'spell-billing move-user --from OLD --to NEW --reason "merged, ticket 4711"',
        {r"\bOLD\b": "old", r"\bNEW\b": "new"},
    )
    shop.run("move-user", "--from", "other", "--to", "new", "--reason", "mistaken for another")
    shell.run('spell-billing move-user --from OLD --undo --reason "..."', {r"\bOLD\b": "other"})
    # The ledger learns that the invoices were paid.
    shell.run("spell-billing bill --month 2026-10 --verify")
    for table in ("usage_counters", "billing_accounts"):
        shop.execute(f"DELETE FROM {table} WHERE user_id IN ('leaver', 'other')")

    shell.run("spell-billing erase-user ID", {r"\bID\b": "leaver"})
    shell.run("spell-billing erase-user ID --as erased-...", {r"\bID\b": "other", r"\.\.\.": "0123456789ab"})

    assert {"leaver", "other"}.isdisjoint(
        each["user_id"] for each in json.loads(shop.run("invoices", "--month", "2024-10", "--json").stdout)
    )
