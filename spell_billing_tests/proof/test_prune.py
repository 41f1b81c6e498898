"""`prune` removes what is past its retention, and nothing that proves a bill or that late usage needs."""

import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from spell_billing.cli import main
from spell_billing.ledger.schema import outbox
from spell_billing.settings.billing import Settings
from spell_billing.usage.store import UsageStore, open_usage_store
from spell_billing_tests.bucket_server import bucket_server
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

ADA = "user-0001"
LONG_AGO = datetime(2025, 4, 2, tzinfo=UTC)


@pytest.fixture
def frozen_thrice(light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch) -> SmallPlatform:
    """Give a platform whose March was frozen three times before it was billed, with a mail that went out."""
    monkeypatch.setenv("DATABASE_URL", light_platform.url)
    monkeypatch.setenv("SPELL_BILLING_USAGE_STORE", str(light_platform.store_path))
    light_platform.accounts(ADA)
    for _ in range(3):
        light_platform.calls(MARCH, (ADA, 100))
        light_platform.draft(MARCH)
    light_platform.bill(MARCH)
    sent = {"created_at": LONG_AGO, "next_try_at": LONG_AGO, "tries": 1, "sent_at": LONG_AGO}
    row = {"key": "k", "channel": "mail", "kind": "finalized", "payload": '{"invoice": "in_1"}', **sent}
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        connection.execute(outbox.insert(), [row])
    return light_platform


def prune(*arguments: str) -> Result:
    done = CliRunner().invoke(main, ["prune", *arguments])
    assert done.exit_code == 0, done.output
    return done


def versions(platform: SmallPlatform) -> list[str]:
    return platform.store.versions(MARCH)


def test_it_says_what_it_would_remove_and_then_removes_exactly_that(frozen_thrice: SmallPlatform) -> None:
    *superseded, pinned = versions(frozen_thrice)
    assert len(superseded) >= 2
    files = sum(path.stat().st_size for path in frozen_thrice.store_path.rglob("*") if path.is_file())

    looked = prune()
    assert versions(frozen_thrice) == [*superseded, pinned]
    would = re.search(r"([\d,]+) bytes would be removed. Repeat the command with --yes", looked.output)
    assert would, looked.output
    for version in superseded:
        assert f"2025-03: frozen version {version} (" in looked.output
    assert "texts of alerts, mails and events that were sent: 1 (" in looked.output
    removed = prune("--yes")

    assert f"Removed: {would[1]} bytes." in removed.output
    assert versions(frozen_thrice) == [pinned]
    left = sum(path.stat().st_size for path in frozen_thrice.store_path.rglob("*") if path.is_file())
    text = len('{"invoice": "in_1"}')
    assert files - left == int(would[1].replace(",", "")) - text
    with frozen_thrice.ledger() as ledger, ledger.reading() as connection:
        assert connection.execute(sa.select(outbox.c.key, outbox.c.payload)).all() == [("k", "{}")]
    pruned = [each["detail"] for each in frozen_thrice.trail(MARCH) if each["action"] == "pruned"]
    assert pruned == [f"superseded frozen versions {', '.join(superseded)}; {pinned} stays"]
    assert "Nothing of the months before" in prune("--yes").output


def test_bills_are_proven_and_late_usage_is_found_afterwards(frozen_thrice: SmallPlatform) -> None:
    prune("--yes")

    frozen_thrice.must_agree(MARCH)
    assert frozen_thrice.explain(MARCH, ADA)["usage"]["calls"] == 3
    frozen_thrice.calls(MARCH, (ADA, 5))
    frozen_thrice.calls(APRIL, (ADA, 70))
    frozen_thrice.bill(APRIL)
    assert frozen_thrice.lines(APRIL, ADA) == [("usage", 70), ("late_usage", 5)]
    frozen_thrice.must_agree(APRIL)


def test_where_the_pinned_version_is_damaged_the_others_stay(frozen_thrice: SmallPlatform) -> None:
    before = versions(frozen_thrice)
    pinned = frozen_thrice.store.version(MARCH, before[-1])
    pinned.paths[0].write_bytes(b"altered")

    assert "left alone, 2025-03: " in prune("--yes").output
    assert versions(frozen_thrice) == before


class _InBucket(SmallPlatform):
    """A platform whose frozen usage is in a bucket."""

    @property
    def store(self) -> UsageStore:
        return open_usage_store(Settings.from_environment().usage_store)


def test_in_a_bucket_the_superseded_objects_are_removed_and_no_others(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with bucket_server() as bucket:
        for name, value in {**bucket.settings, "SPELL_BILLING_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DATABASE_URL", light_platform.url)
        monkeypatch.setenv("SPELL_BILLING_USAGE_STORE", "s3://usage/shop")
        platform = _InBucket(
            **{each.name: getattr(light_platform, each.name) for each in fields(light_platform)}
        )
        platform.accounts(ADA)
        for _ in range(2):
            platform.calls(MARCH, (ADA, 100))
            platform.draft(MARCH)
        platform.bill(MARCH)
        *superseded, pinned = versions(platform)
        before = {key: len(bucket.content(key)) for key in bucket.keys("shop/2025-03/v")}
        removed = prune("--yes").output
        after = bucket.keys("shop/2025-03/v")
        platform.must_agree(MARCH)

    assert (superseded, pinned) == (["v0001", "v0002"], "v0003")
    assert after == [key for key in before if key.startswith(f"shop/2025-03/{pinned}/")]
    freed = sum(size for key, size in before.items() if key not in after)
    assert f"Removed: {freed:,} bytes." in removed


def test_what_is_not_billed_or_not_old_is_not_touched(frozen_thrice: SmallPlatform) -> None:
    for _ in range(2):
        frozen_thrice.calls(APRIL, (ADA, 100))
        frozen_thrice.draft(APRIL)
    prune("--yes")
    assert len(frozen_thrice.store.versions(APRIL)) == 2
    kept = prune("--keep-months", "600").output
    assert "Nothing of the months before" in kept
    assert CliRunner().invoke(main, ["prune", "--keep-months", "3"]).exit_code == 2
