"""Frozen usage in a bucket: machines that share no disk bill one platform; and what can happen to it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.wrappers import Request, Response

from spell_billing_tests.bucket_server import BucketServer, bucket_server, refusal

STORE = "s3://usage/shop"
ONE, TWO, LEAVER = "user-0001", "user-0002", "leaver"


@pytest.fixture(scope="module")
def bucket() -> Iterator[BucketServer]:
    with bucket_server() as server:
        yield server


class Pods:
    """Two machines with a home of their own each; the database and the bucket are one."""

    def __init__(self, shop: Any, bucket: BucketServer, homes: Path) -> None:
        self.shop, self.bucket, self.homes = shop, bucket, homes

    def run(self, pod: str, *arguments: str, **changes: str) -> Any:
        home = self.homes / pod
        home.mkdir(exist_ok=True)
        settings = {"SPELL_BILLING_HOME": str(home), "SPELL_BILLING_USAGE_STORE": STORE}
        return self.shop.run(*arguments, **{**self.bucket.settings, **settings, **changes})

    def bill(self, pod: str, month: str) -> None:
        billed = self.run(pod, "bill", "--month", month)
        assert billed.returncode == 0, billed.stderr

    def agree(self, pod: str, month: str) -> None:
        reconciled = self.run(pod, "reconcile", "--month", month)
        assert reconciled.returncode == 0, reconciled.stdout + reconciled.stderr

    def refused(self, pod: str, *arguments: str, **changes: str) -> str:
        """Run a command that must fail, and return the sentence that it says last."""
        done = self.run(pod, *arguments, **changes)
        assert done.returncode == 1, done.stdout + done.stderr
        return str(done.stderr.splitlines()[-1])


@pytest.fixture(scope="module")
def pods(make_shop: Callable[[str], Any], bucket: BucketServer, tmp_path_factory: Any) -> Pods:
    """Bill March on machine a."""
    shop = make_shop("postgresql")
    shop.accounts(ONE, TWO, LEAVER)
    shop.calls("2025-03", (ONE, 1000), (ONE, 234), (TWO, 500), (LEAVER, 700))
    pods = Pods(shop, bucket, tmp_path_factory.mktemp("pods"))
    assert pods.run("a", "init-db").returncode == 0
    pods.bill("a", "2025-03")
    return pods


def test_machines_that_share_no_disk_bill_late_usage_and_reconcile_each_others_months(pods: Pods) -> None:
    pods.shop.calls("2025-03", (TWO, 11))
    pods.shop.calls("2025-04", (ONE, 20))
    pods.bill("b", "2025-04")

    assert sorted(each.total_cents for each in pods.shop.double.invoices()) == [11, 20, 500, 700, 1234]
    for pod, month in (("a", "2025-04"), ("b", "2025-03")):
        pods.agree(pod, month)
    told = pods.run("b", "explain", "--month", "2025-03", "--user", ONE)
    assert "2 calls" in told.stdout, told.stdout + told.stderr
    assert sorted(re.sub(r"[0-9a-f]{64}", "*", key) for key in pods.bucket.keys("shop/2025-03")) == [
        f"shop/2025-03/v0001/{name}"
        for name in ("manifest.json", "rows.*.parquet", "user_usage.*.parquet", "user_usage.sha256")
    ]


def test_an_object_that_is_altered_or_lost_stops_the_month_and_is_named(pods: Pods) -> None:
    (rows,) = pods.bucket.keys("shop/2025-03/v0001/rows")
    kept = pods.bucket.content(rows)
    pods.bucket.put(rows, kept[:-9] + bytes(9))
    # Machine a has a copy of its own, which is whole.
    altered = pods.refused("a", "bill", "--month", "2025-05")
    pods.bucket.remove(rows)
    lost = pods.refused("new", "preview", "--month", "2025-05")
    pods.bucket.put(rows, kept)

    assert f"The frozen file s3://usage/{rows} is not what was frozen. Restore the file" in altered
    assert f"The frozen file s3://usage/{rows} is missing. Restore the file" in lost


def test_a_month_is_billed_after_a_cut_upload_beside_another_machine_and_from_lists_that_lag(
    pods: Pods,
) -> None:
    first = "shop/2025-05/v0001/manifest.json"

    def cut(request: Request) -> Response | None:
        is_manifest = request.method == "PUT" and request.path.endswith(first)
        return refusal(503, "SlowDown") if is_manifest else None

    def other_is_first(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith(first) and first not in pods.bucket.objects:
            pods.bucket.put(first, b"of the other machine")

    def lists_lag(request: Request) -> Response | None:
        if "list-type" not in request.args or first not in pods.bucket.objects:
            return None
        empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
        return Response(empty, content_type="application/xml")

    pods.shop.calls("2025-05", (ONE, 30))
    with pods.bucket.fault(cut):
        said = pods.refused("a", "bill", "--month", "2025-05")
    assert f"{STORE} does not answer (status 503). See that the network reaches it" in said
    left = pods.bucket.keys("shop/2025-05")
    assert len(left) == 1
    pods.bucket.put(leftover := "shop/2025-05/v0001/old.parquet", b"of an upload before")
    pods.bucket.make_old(*left, leftover)
    with pods.bucket.fault(other_is_first), pods.bucket.fault(lists_lag):
        pods.bill("b", "2025-05")

    assert pods.bucket.content(first) == b"of the other machine"
    assert leftover not in pods.bucket.objects
    pods.bucket.remove(first)
    assert "shop/2025-05/v0002/manifest.json" in pods.bucket.objects
    pods.agree("a", "2025-05")


def test_an_erased_user_is_in_no_object_and_a_freeze_under_way_is_given_up(pods: Pods) -> None:
    shop = pods.shop
    shop.double.advance()
    assert pods.run("a", "bill", "--month", "2025-03", "--verify").returncode == 0
    for table in ("usage_counters", "billing_accounts"):
        shop.execute(f"DELETE FROM {table} WHERE user_id = :user", [{"user": LEAVER}])

    def named() -> list[str]:
        return [key for key in pods.bucket.objects if LEAVER.encode() in pods.bucket.content(key)]

    assert named()
    erased = pods.run("b", "erase-user", LEAVER)
    assert erased.returncode == 0, erased.stderr
    assert named() == []
    pods.agree("a", "2025-03")

    def erased_meanwhile(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith("/2025-06/v0001/manifest.json"):
            pods.bucket.put("shop/last-erasure", b"another")

    with pods.bucket.fault(erased_meanwhile):
        said = pods.refused("a", "bill", "--month", "2025-06")
    assert "A user was erased while 2025-06 was being frozen. Freeze the month again." in said
    assert pods.bucket.keys("shop/2025-06") == []


def test_a_store_that_cannot_be_used_is_named_in_one_sentence_without_its_secrets(pods: Pods) -> None:
    def refuse(code: str) -> Callable[[Request], Response]:
        return lambda _: refusal(403, code)

    passed = pods.run("a", "store-test")
    assert passed.stdout == (
        f"{STORE}: an object was written, read, listed and removed; a second writer is refused.\n"
    )
    no_bucket = pods.refused("a", "store-test", SPELL_BILLING_USAGE_STORE="s3://nowhere/shop")
    assert no_bucket.startswith("Error: The bucket of s3://nowhere/shop does not exist. Create it")
    with pods.bucket.fault(refuse("SignatureDoesNotMatch")):
        refused = pods.refused("b", "reconcile", "--month", "2025-03")
    assert f"{STORE} does not let these credentials read objects (SignatureDoesNotMatch)." in refused
    silent = pods.refused("a", "store-test", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert silent.startswith(f"Error: {STORE} does not answer. See that the network reaches it")
    for url, words in {
        "s3://key:Vertraulich@usage/shop": "has more in it than a bucket and a prefix",
        "s3:///shop": "names no bucket",
        "ftp://usage": "begins with ftp://, which is no bucket",
    }.items():
        assert words in pods.refused("a", "store-test", SPELL_BILLING_USAGE_STORE=url)


def test_months_frozen_on_disk_are_asked_for_and_copied_before_the_next_is_billed(
    make_shop: Callable[[str], Any], bucket: BucketServer, tmp_path: Path
) -> None:
    shop = make_shop("sqlite")
    shop.accounts(ONE)
    shop.calls("2025-03", (ONE, 1000))
    pods = Pods(shop, bucket, tmp_path)
    home, moved = tmp_path / "a", {"SPELL_BILLING_USAGE_STORE": "s3://usage/moved"}
    on_disk = {"SPELL_BILLING_USAGE_STORE": str(home / "usage")}
    assert pods.run("a", "init-db", **on_disk).returncode == 0
    assert pods.run("a", "bill", "--month", "2025-03", **on_disk).returncode == 0
    assert pods.run("a", "store-test", **on_disk).stdout.endswith(": a file was written, read and removed.\n")
    shop.calls("2025-03", (ONE, 5))
    shop.calls("2025-04", (ONE, 20))

    said = pods.refused("a", "preview", "--month", "2025-04", **moved)
    lost = pods.refused("b", "reconcile", "--month", "2025-03", **moved)
    copies = [pods.run("a", "copy-usage", str(home / "usage"), **moved).stdout for _ in range(2)]

    remedy = f"Copy what was frozen with `spell-billing copy-usage {home / 'usage'}`, and run this again."
    assert f"before SPELL_BILLING_USAGE_STORE was s3://usage/moved. {remedy}" in said
    assert "The frozen usage 2025-03/v0001 is not in s3://usage/moved. Restore its objects" in lost
    assert copies == [
        f"1 frozen versions are in s3://usage/moved; {new} of them are new there.\n" for new in (1, 0)
    ]
    assert "$0.25" in pods.run("b", "preview", "--month", "2025-04", **moved).stdout
    assert pods.run("b", "reconcile", "--month", "2025-03", **moved).returncode == 0
