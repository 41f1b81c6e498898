"""The codes of errors, with HTTP's status and when each is answered. A code never changes its meaning."""

from collections.abc import Mapping
from typing import Any

WRONG_PARAMETER = "wrong_..."
"""Stands for the codes that name the parameter which is wrong."""

CODES: Mapping[str, tuple[int, str]] = {
    "wrong_path": (400, "The address is too long, or holds characters that no address has."),
    "wrong_signature": (400, "Stripe's signature is missing, wrong, or older than five minutes."),
    "no_query": (400, "`/graphql`: the body has no query."),
    "no_graphql": (400, "`/graphql`: the query is not valid."),
    "not_in_variables": (400, "`/graphql`: a person launches a run whose parameters are not in `variables`."),
    "not_by_name": (
        403,
        "`/graphql`: a person executes a backfill again, which would carry the name of the first one.",
    ),
    "refused": (400, "HTTP does not allow such a request."),
    "no_secret": (401, "The request has neither secret nor session."),
    "wrong_secret": (401, "The secret is wrong."),
    "wrong_token": (401, "The token of the user's link is missing or wrong."),
    "token_expired": (401, "The user's link is over."),
    "other_user": (403, "The link is for another user."),
    "other_site": (403, "The request was made by a page of another site."),
    "unknown_person": (403, "The proxy names somebody who is in no line of `ADMIN_SECRETS`."),
    "role_not_enough": (403, "The person's role does not allow it."),
    "read_only": (403, "The server was started with `--read-only`."),
    "not_found": (404, "There is no such address."),
    "unknown_user": (404, "Nothing is known of the user: no invoice, no account, no usage."),
    "no_such_bill": (404, "The user has no bill for the month."),
    "method_not_allowed": (405, "The address does not take this method."),
    "graphql_by_post": (405, "`/graphql` is asked by POST alone."),
    "already_running": (409, "A run of the month is under way."),
    "month_is_locked": (409, "A run is at the month, or another decision."),
    "not_possible_now": (409, "The drafts have changed, or there is nothing to decide."),
    "body_too_large": (413, "The body is too large."),
    "not_json": (415, "`/graphql` takes JSON alone."),
    "wrong_body": (422, "The body is not what the endpoint takes."),
    WRONG_PARAMETER: (422, "The parameter that is named after `wrong_` is not what the endpoint takes."),
    "wrong_month": (422, "No such month can be billed: it is not closed yet, or before the first one."),
    "month_in_future": (422, "The month has not begun."),
    "wrong_cursor": (422, "`before` or `after` does not come from an earlier answer of this ledger."),
    "amount_not_whole": (422, "The form's amount has more decimals than the currency."),
    "nothing_to_give_back": (422, "The form's amount is zero."),
    "too_many_tries": (
        429,
        "Too many wrong secrets came from the address: `Retry-After` says how long to wait.",
    ),
    "internal_error": (500, "A fault of the server; its log says which."),
    "no_webhook_secret": (503, "`STRIPE_WEBHOOK_SECRET` is not set."),
    "not_available": (503, "The ledger or the platform's database does not answer; the log says more."),
    "busy": (503, "Too many requests at once: `Retry-After` says how long to wait."),
    "not_launched": (503, "Dagster did not take the run."),
    "stripe_does_not_answer": (503, "Stripe does not answer, or refuses the account."),
}


def code_schema() -> dict[str, Any]:
    """Describe the codes in a JSON schema, each with its status and meaning."""
    named: list[dict[str, Any]] = [
        {"const": code, "description": f"{status}: {when}"}
        for code, (status, when) in CODES.items()
        if code != WRONG_PARAMETER
    ]
    return {"anyOf": [*named, {"pattern": "^wrong_[a-z_]+$", "description": CODES[WRONG_PARAMETER][1]}]}
