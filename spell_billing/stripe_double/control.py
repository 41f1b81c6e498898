"""The control endpoints under `/_double/`: state, faults, clock, customers.

They are for a double in a process of its own; bodies and answers are JSON.
"""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spell_billing.stripe_double.errors import DoubleError

if TYPE_CHECKING:
    from spell_billing.stripe_double.double import StripeDouble

Endpoint = Callable[[Request], Awaitable[Response]]

_FAULT_FIELDS = frozenset({"kind", "nth", "operation", "probability", "seed", "times", "seconds", "reason"})
_DONE = Response(status_code=204)


class Control:
    """The control application of one double."""

    def __init__(self, double: "StripeDouble") -> None:
        self._double = double

    def app(self) -> Starlette:
        """Build the application."""
        routes: list[tuple[str, str, Endpoint]] = [
            ("GET", "state", self._state),
            ("GET", "requests", self._requests),
            ("POST", "faults", self._arm),
            ("DELETE", "faults", self._disarm),
            ("POST", "reset", self._reset),
            ("POST", "clock", self._clock),
            ("POST", "customers", self._customers),
            ("POST", "expire_keys", self._expire_keys),
            ("POST", "advance", self._advance),
            ("POST", "dispute", self._dispute),
            ("POST", "return_payment", self._return_payment),
            ("POST", "show", self._show),
        ]
        return Starlette(
            routes=[
                Route(f"/_double/{path}", _refusing(endpoint), methods=[method])
                for method, path, endpoint in routes
            ]
        )

    async def _state(self, _request: Request) -> Response:
        return JSONResponse(self._double.summary())

    async def _requests(self, _request: Request) -> Response:
        return JSONResponse([dataclasses.asdict(each) for each in self._double.requests])

    async def _arm(self, request: Request) -> Response:
        wanted = await request.json()
        unknown = wanted.keys() - _FAULT_FIELDS
        if unknown:
            raise DoubleError(f"A fault has no field {', '.join(sorted(unknown))}.")
        self._double.arm(**wanted)
        return _DONE

    async def _disarm(self, _request: Request) -> Response:
        self._double.disarm()
        return _DONE

    async def _reset(self, _request: Request) -> Response:
        self._double.reset()
        return _DONE

    async def _clock(self, request: Request) -> Response:
        self._double.shift_clock(int((await request.json())["shift_seconds"]))
        return JSONResponse({"now": self._double.state.clock.unix()})

    async def _customers(self, request: Request) -> Response:
        for customer in await request.json():
            self._double.add_customer(**customer)
        return _DONE

    async def _expire_keys(self, _request: Request) -> Response:
        self._double.expire_all_keys()
        return _DONE

    async def _dispute(self, request: Request) -> Response:
        self._double.dispute(**await request.json())
        return _DONE

    async def _return_payment(self, request: Request) -> Response:
        self._double.return_payment((await request.json())["invoice_id"])
        return _DONE

    async def _show(self, request: Request) -> Response:
        wanted = await request.json()
        self._double.show(wanted.pop("invoice_id"), **wanted)
        return _DONE

    async def _advance(self, _request: Request) -> Response:
        self._double.advance()
        return _DONE


def _refusing(endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (DoubleError, TypeError, ValueError, KeyError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return guarded
