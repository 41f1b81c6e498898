"""Gives a request's body, once read, to the app behind as if it had just arrived."""

from starlette.types import Message, Receive


def again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that brings the body in one piece, then what the client does afterwards."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
