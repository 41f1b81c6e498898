"""The control endpoints under `/_double/`: state, faults, clock, customers.

They are for a double in a process of its own; bodies and answers are JSON.
"""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spell_billing.stripe_double.errors import DoubleError

if TYPE_CHECKING:
    from spell_billing.stripe_double.double import StripeDouble

_CALLBACKS = frozenset({"before_effect", "after_effect"})


def control_app(double: "StripeDouble") -> Starlette:
    """Return the control application of a double."""

    def arm(**fault: Any) -> None:
        if _CALLBACKS & fault.keys():
            raise DoubleError("A fault has no callbacks over HTTP.")
        double.arm(**fault)

    def shift_clock(shift_seconds: int) -> dict[str, int]:
        double.shift_clock(shift_seconds)
        return {"now": double.state.unix()}

    def add_customers(customers: list[dict[str, Any]]) -> None:
        for each in customers:
            double.add_customer(**each)

    endpoints: dict[tuple[str, str], Callable[..., object]] = {
        ("GET", "state"): double.summary,
        ("GET", "requests"): lambda: [dataclasses.asdict(each) for each in double.requests],
        ("POST", "faults"): arm,
        ("DELETE", "faults"): double.disarm,
        ("POST", "reset"): double.reset,
        ("POST", "clock"): shift_clock,
        ("POST", "customers"): add_customers,
        ("POST", "expire_keys"): double.expire_all_keys,
        ("POST", "advance"): double.advance,
        ("POST", "dispute"): double.dispute,
        ("POST", "fail_refund"): double.fail_refund,
        ("POST", "void_credit_note"): double.void_credit_note,
        ("POST", "return_payment"): double.return_payment,
        ("POST", "show"): double.show,
        ("POST", "restrict"): double.restrict,
    }
    return Starlette(
        routes=[
            Route(f"/_double/{path}", _endpoint(call), methods=[method])
            for (method, path), call in endpoints.items()
        ]
    )


def _endpoint(call: Callable[..., object]) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        try:
            body = await request.json() if await request.body() else None
            given = call(body) if isinstance(body, list) else call(**(body or {}))
        except (DoubleError, TypeError, ValueError, KeyError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return Response(status_code=204) if given is None else JSONResponse(given)

    return serve
