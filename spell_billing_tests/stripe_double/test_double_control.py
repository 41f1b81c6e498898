"""The double from outside: invariants it watches, control over HTTP, its own process, its state file."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spell_billing.stripe_double import DoubleError, StripeDouble, Violation

Call = Callable[..., Any]

SERVE = """
import sys
from pathlib import Path
from spell_billing.stripe_double import RateLimits, StripeDouble
StripeDouble(state_file=Path(sys.argv[1]), auto_create_customers=True, limits=RateLimits.live()).serve(
    lambda url: print(url, flush=True)
)
print("stopped")
"""


def test_a_second_finalized_invoice_with_one_billing_key_is_flagged(
    double: StripeDouble, draft: Call, billed: Call
) -> None:
    key = {"spell_billing_key": "2026-10:user-0001:g1"}
    draft(700, metadata=key)
    first = billed(700, metadata=key)
    billed(700, metadata={"spell_billing_key": "2026-10:user-0002:g1"})
    assert double.violations == []
    second = billed(700, metadata=key, auto_advance=False)
    expected = Violation("2026-10:user-0001:g1", tuple(sorted([first["id"], second["id"]])))
    assert double.violations == [expected]
    assert double.summary()["violations"] == [
        {"billing_key": expected.billing_key, "invoices": list(expected.invoices)}
    ]


def test_a_voided_invoice_may_be_billed_again(double: StripeDouble, ok: Call, billed: Call) -> None:
    key = {"spell_billing_key": "2026-10:user-0001:g1"}
    ok("POST", f"/v1/invoices/{billed(700, metadata=key, auto_advance=False)['id']}/void")
    billed(700, metadata=key)
    assert double.violations == []


def test_a_key_given_after_finalization_counts_too(double: StripeDouble, ok: Call, billed: Call) -> None:
    key = {"spell_billing_key": "2026-10:user-0001:g1"}
    billed(700, metadata=key)
    ok("POST", f"/v1/invoices/{billed(700)['id']}", {"metadata": key})
    assert len(double.violations) == 1


def test_requests_are_logged_and_counted(double: StripeDouble, call: Call) -> None:
    call("POST", "/v1/invoices", {"customer": "cus_1"}, key="k")
    call("POST", "/v1/invoices", {"customer": "cus_1"}, key="k")
    _, headers, _ = call("GET", "/v1/invoices")
    assert [(each.method, each.operation, each.idempotency_key, each.status) for each in double.requests] == [
        ("POST", "invoices.create", "k", 200),
        ("POST", "invoices.create", "k", 200),
        ("GET", "invoices.list", None, 200),
    ]
    assert double.requests[-1].request_id == headers["request-id"]
    summary = double.summary()
    assert (summary["requests"], summary["writes"], summary["replays"]) == (3, 2, 1)
    assert summary["by_operation"] == {"invoices.create": 2, "invoices.list": 1}
    assert summary["invoices"] == {"draft": 1}


def test_thousands_of_customers_are_seeded(double: StripeDouble, ok: Call) -> None:
    for number in range(5000):
        double.add_customer(f"cus_{number:06}")
    assert ok("GET", "/v1/customers/cus_004999")["metadata"] == {"double_card": "ok"}


def test_reset_starts_anew(double: StripeDouble, ok: Call, draft: Call) -> None:
    draft()
    double.shift_clock(1000)
    double.arm("error_500_before")
    double.reset()
    assert ok("GET", "/v1/invoices")["data"] == []
    assert double.summary()["customers"] == 0


def test_everything_is_controlled_over_http(double: StripeDouble, ok: Call, call: Call) -> None:
    assert call("POST", "/_double/customers", headers={"X": "y"})[0] == 400

    def control(method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the double's own address
            f"{double.base_url}/_double/{path}", method=method, data=json.dumps(body).encode()
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - the double's own address
            return json.loads(answer.read() or b"null")

    control("POST", "customers", [{"id": "cus_7", "card": "declined"}, {"id": "cus_8"}])
    control("POST", "faults", {"kind": "rate_limited", "nth": 2})
    create = ("POST", "/v1/invoices", {"customer": "cus_7"})
    assert [call(*create, key="k")[0] for _ in range(3)] == [200, 429, 200]
    control("POST", "faults", {"kind": "error_500_before"})
    control("DELETE", "faults")
    before = control("GET", "state")["now"]
    assert control("POST", "clock", {"shift_seconds": 86400})["now"] >= before + 86400
    control("POST", "expire_keys")
    control("POST", "advance")
    assert "idempotent-replayed" not in call(*create, key="k")[1]
    assert control("GET", "state")["invoices"] == {"draft": 2}
    assert [each["status"] for each in control("GET", "requests")] == [200, 429, 200, 200]
    control("POST", "reset")
    assert control("GET", "state")["customers"] == 0
    ok("GET", "/v1/invoices")


def test_wrong_control_requests_are_named(double: StripeDouble) -> None:
    for path, body in [("faults", {"kind": "explode"}), ("faults", {"kind": "slow", "colour": "red"})]:
        request = urllib.request.Request(  # noqa: S310 - the double's own address
            f"{double.base_url}/_double/{path}", data=json.dumps(body).encode()
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)  # noqa: S310 - the double's own address
        with refused.value as answer:
            assert answer.code == 400


def test_the_address_is_known_only_while_it_runs() -> None:
    double = StripeDouble()
    with pytest.raises(DoubleError, match="does not run"):
        _ = double.base_url
    with double.running():
        assert double.base_url.startswith("http://127.0.0.1:")


def test_a_stopped_double_comes_back_at_its_address_with_its_objects(call_at: Call) -> None:
    double = StripeDouble()
    double.add_customer("cus_1")
    with double.running():
        address = double.base_url
        assert call_at(double, "POST", "/v1/invoices", {"customer": "cus_1"}, key="k")[0] == 200
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/v1/invoices")  # noqa: S310 - the double's own address
    with double.running():
        assert double.base_url == address
        _, headers, _ = call_at(double, "POST", "/v1/invoices", {"customer": "cus_1"}, key="k")
        assert headers["idempotent-replayed"] == "true"
    assert len(double.invoices()) == 1


def test_a_defect_of_the_double_is_not_silent(call_at: Call) -> None:
    double = StripeDouble()

    def fail(_record: object) -> None:
        raise RuntimeError("defect")

    def use() -> None:
        with double.running():
            double.arm("none", before_effect=fail)
            assert call_at(double, "POST", "/v1/customers")[0] == 500

    with pytest.raises(DoubleError, match="defect"):
        use()


def test_a_process_keeps_its_objects_over_a_restart(tmp_path: Path, call_at: Call) -> None:
    state_file = tmp_path / "double" / "state.json"
    for stop in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(state_file)], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            double = StripeDouble()
            double._base_url = process.stdout.readline().strip()
            invoice = call_at(double, "POST", "/v1/invoices", {"customer": "cus_any"})[2]
            path = f"/v1/invoices/{invoice['id']}"
            call_at(double, "POST", f"{path}/add_lines", {"lines": [{"amount": 700}]})
            call_at(double, "POST", f"{path}/finalize", {"auto_advance": True})
            process.send_signal(stop)
            assert process.stdout.read() == "stopped\n"
            assert process.wait() == 0
    kept = StripeDouble(state_file=state_file)
    assert [(each.status, each.total_cents, each.customer) for each in kept.invoices()] == [
        ("paid", 700, "cus_any")
    ] * 2
    assert len({each.id for each in kept.invoices()}) == 2
    assert [each.type for each in kept.events()].count("invoice.paid") == 2
    assert len(kept.state.charges) == 2


def test_the_state_file_gives_back_every_object(tmp_path: Path, call_at: Call) -> None:
    state_file = tmp_path / "state.json"
    with StripeDouble(state_file=state_file).running() as first:
        first.add_customer("cus_1", balance_cents=-100, email="user-0001@example.com")
        call_at(first, "POST", "/v1/invoiceitems", {"customer": "cus_1", "amount": 900, "description": "ü"})
        invoice = call_at(
            first, "POST", "/v1/invoices", {"customer": "cus_1", "pending_invoice_items_behavior": "include"}
        )[2]
        call_at(first, "POST", f"/v1/invoices/{invoice['id']}/finalize", {"auto_advance": True})
        note = {"invoice": invoice["id"], "amount": 50, "refund_amount": 50}
        assert call_at(first, "POST", "/v1/credit_notes", note)[0] == 200
        paths = ["invoices", "invoiceitems", "credit_notes", "charges", "events", "customers/cus_1"]
        before = [call_at(first, "GET", f"/v1/{path}")[2] for path in paths]
    with StripeDouble(state_file=state_file).running() as second:
        assert [call_at(second, "GET", f"/v1/{path}")[2] for path in paths] == before
        assert call_at(second, "POST", "/v1/invoices", {"customer": "cus_1"})[2]["id"] != invoice["id"]


def test_a_foreign_state_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"objects": [{"$type": "Unknown"}]}')
    with pytest.raises(DoubleError, match="delete it"):
        StripeDouble(state_file=path)


def test_a_taken_port_is_an_error(double: StripeDouble) -> None:
    port = int(double.base_url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"), StripeDouble(port=port).running():
        pass
