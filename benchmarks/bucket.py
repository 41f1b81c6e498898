"""Freezing a month into a bucket and reading it back: against a folder, and the bare transfer of its bytes.

The bucket is the S3 that the tests use, over HTTP on this machine: what the network of a real one adds, it
adds to both.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.aggregate import STORE
from benchmarks.freeze import PEAK_TARGET_BYTES
from benchmarks.generator import MONTH
from benchmarks.measure import Run, interleaved, run_way
from benchmarks.report import Figure, Kind

_TARGET = 1.3
"""What is added to the transfer: SHA-256 of each part and of the whole copy, the mark, and small objects."""
_PART_BYTES = 8 << 20


def upload(address: str, settings: dict[str, str], folder: str) -> Callable[[], dict[str, Any]]:
    """Prepare the bare upload of what was frozen in the folder."""
    import obstore  # noqa: PLC0415 - not into the parent's memory
    from obstore.store import from_url  # noqa: PLC0415

    os.environ.update(settings)
    bucket = from_url(address, client_options={"allow_http": True})
    files = [path for path in _version(folder).iterdir() if path.is_file()]

    def act() -> dict[str, Any]:
        for path in files:
            obstore.put(bucket, path.name, path)
        return {"bytes": sum(path.stat().st_size for path in files)}

    return act


def download(address: str, settings: dict[str, str], folder: str) -> Callable[[], dict[str, Any]]:
    """Prepare the bare download of what `upload` brought there, in parts of the size of ours.

    This server reads the whole object for each part, which would count as ours against a download in one.
    """
    import obstore  # noqa: PLC0415 - not into the parent's memory
    from obstore.store import from_url  # noqa: PLC0415

    os.environ.update(settings)
    bucket = from_url(address, client_options={"allow_http": True})
    place = Path(tempfile.mkdtemp(dir=folder))
    found = obstore.list(bucket).collect()

    def act() -> dict[str, Any]:
        for each in found:
            with (place / each["path"]).open("wb") as file:
                for start in range(0, each["size"], _PART_BYTES):
                    end = min(start + _PART_BYTES, each["size"])
                    file.write(obstore.get_range(bucket, each["path"], start=start, end=end))
        return {"bytes": sum(path.stat().st_size for path in place.iterdir())}

    return act


def freeze_into(url: str, address: str, settings: dict[str, str], folder: str) -> Callable[[], None]:
    """Prepare to freeze the month into the bucket, or into the folder where there is none."""
    from spell_billing.settings.lakes import parse_usage_url  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.usage.source import open_usage_source  # noqa: PLC0415

    os.environ.update(settings)
    source = open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"))
    store = _store(address, folder)

    def act() -> None:
        store.freeze(source, MONTH)

    return act


def read_back(address: str, settings: dict[str, str], folder: str) -> Callable[[], dict[str, Any]]:
    """Prepare what `user_usage` does: verify the month, which fetches what is not here, and add it up."""
    from spell_billing.usage.aggregate import aggregate  # noqa: PLC0415 - not into the parent's memory

    os.environ.update(settings)
    store = _store(address, folder)

    def act() -> dict[str, Any]:
        frozen = store.latest(MONTH)
        if frozen is None:
            raise RuntimeError("the month is not frozen")
        store.verify(frozen)
        return {"users": aggregate(frozen).users}

    return act


def _store(address: str, folder: str) -> Any:
    from spell_billing.settings.usage_place import BucketPlace  # noqa: PLC0415 - not into the parent's memory
    from spell_billing.usage.store import open_usage_store  # noqa: PLC0415

    home = Path(folder)
    return open_usage_store(BucketPlace(address, home) if address else home / STORE)


def _version(folder: str) -> Path:
    return Path(folder) / STORE / str(MONTH) / "v0001"


def measure(url: str, folder: Path, what: str, repeats: int) -> Iterator[Figure]:
    """Measure both directions."""
    from spell_billing_tests.bucket_server import BUCKET, bucket_server  # noqa: PLC0415 - heavy

    with bucket_server() as server, tempfile.TemporaryDirectory(dir=folder) as place:
        bare = {"address": f"s3://{BUCKET}/bare", "settings": server.settings}
        ours = {"address": f"s3://{BUCKET}/ours", "settings": server.settings}
        run_way("bucket:freeze_into", url=url, address="", settings={}, folder=place)

        def in_new_home(way: str, **arguments: object) -> Run:
            with tempfile.TemporaryDirectory(dir=folder) as home:
                return run_way(f"bucket:{way}", folder=home, **arguments)

        def freeze_anew() -> Run:
            server.remove(*server.keys("ours/"))
            return in_new_home("freeze_into", url=url, **ours)

        yield _figure(
            "Freeze into a bucket",
            "upload",
            interleaved(
                repeats,
                {
                    "folder": lambda: in_new_home("freeze_into", url=url, address="", settings={}),
                    "bare": lambda: run_way("bucket:upload", folder=place, **bare),
                    "ours": freeze_anew,
                },
            ),
            what,
        )
        yield _figure(
            "user_usage from a bucket, no copy at hand",
            "download",
            interleaved(
                repeats,
                {
                    "folder": lambda: run_way("bucket:read_back", address="", settings={}, folder=place),
                    "bare": lambda: in_new_home(
                        "download", address=bare["address"], settings=server.settings
                    ),
                    "ours": lambda: in_new_home("read_back", **ours),
                },
            ),
            what,
        )


def _figure(name: str, transfer: str, runs: dict[str, Run], what: str) -> Figure:
    mib = runs["bare"].facts["bytes"] / (1 << 20)
    folder, bare = (f"{runs[way].seconds:.3g} s" for way in ("folder", "bare"))
    return Figure(
        "bucket",
        f"{name}, {what}",
        f"{folder} the same with a folder, {bare} the bare {transfer} of {mib:,.0f} MB",
        runs["folder"].seconds + runs["bare"].seconds,
        runs["ours"].seconds,
        kind=Kind.RATIO,
        target=_TARGET,
        peak_bytes=runs["ours"].peak_bytes,
        peak_target_bytes=PEAK_TARGET_BYTES,
    )
