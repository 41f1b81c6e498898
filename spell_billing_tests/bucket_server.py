"""An S3 over HTTP on this machine (moto's), and what can go wrong on the way to it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

REGION, BUCKET = "eu-central-1", "usage"
_ACCOUNT = "123456789012"

Fault = Callable[[Request], Response | None]
"""Answers a request in the service's place, or lets it pass with None."""


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        """Leave the test's output alone."""


@dataclass
class BucketServer:
    """A running service with one bucket."""

    address: str
    faults: list[Fault] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        """What a program needs to reach it; the secrets hold the word that no output may hold."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "AKIAVertraulich55",
            "AWS_SECRET_ACCESS_KEY": "Vertraulich56",
        }

    @property
    def objects(self) -> Any:
        """The bucket's objects by key, as the service holds them."""
        return s3_backends[_ACCOUNT]["aws"].buckets[BUCKET].keys

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def content(self, key: str) -> bytes:
        content: bytes = self.objects[key].value
        return content

    def put(self, key: str, content: bytes) -> None:
        s3_backends[_ACCOUNT]["aws"].put_object(BUCKET, key, content)

    def remove(self, *keys: str) -> None:
        for key in keys:
            s3_backends[_ACCOUNT]["aws"].delete_object(BUCKET, key)

    def make_old(self, *keys: str) -> None:
        for key in keys:
            self.objects[key].last_modified = datetime.now(UTC) - timedelta(days=2)

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        self.faults.append(fault)
        try:
            yield
        finally:
            self.faults.remove(fault)


def refusal(status: int, code: str) -> Response:
    """Answer as S3 refuses: with the access key, and what was signed."""
    text = f"<Error><Code>{code}</Code><AWSAccessKeyId>AKIAVertraulich55</AWSAccessKeyId></Error>"
    return Response(text, status, content_type="application/xml")


@contextmanager
def bucket_server() -> Iterator[BucketServer]:
    """Serve an empty bucket."""
    application = DomainDispatcherApplication(create_backend_app)

    def serve(environ: Any, start: Any) -> Any:
        request = Request(environ)
        for fault in list(server.faults):
            answer = fault(request)
            if answer is not None:
                request.get_data()
                return answer(environ, start)
        return application(environ, start)

    listener = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=_Quiet)
    server = BucketServer(f"http://127.0.0.1:{listener.server_port}")
    s3_backends[_ACCOUNT]["aws"].create_bucket(BUCKET, REGION)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
        s3_backends[_ACCOUNT]["aws"].reset()
