"""Upload local images and manifests to the service's bucket, each once."""

import hashlib
import json
import mimetypes
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from car.object_store import ObjectStore, list_pages
from cli.errors import UsageError

PREFIX = "uploads/"
_THREADS = 8
_MOST_BYTES = 2**30
_DIGEST_LETTERS = 32
"""Of the sha256 of a file, in its key: 128 bits."""


@dataclass(frozen=True)
class Uploaded:
    """What an upload stored."""

    manifest: str
    """The URI of the manifest of exactly these images, which a job takes as its source."""
    sent: int
    present: int
    """Were there already, with the same bytes."""
    passed_over: str = ""
    """What the folder has besides images."""


def upload(store: ObjectStore, folder: Path, prefix: str, begin: Callable[[int], Callable[[], None]]) -> Uploaded:
    """Store the images below the folder under `prefix`/digest/path, and a manifest of them. `begin` gets their count
    and returns what is called after each.

    A key contains the digest of its bytes, so uploads of the same name neither replace nor add to each other's images.

    Raises:
        UsageError: no such folder.
        ImageError: no images in it, or a file that cannot be read.
        ObjectStoreError: the bucket is missing, denied or unreachable. Uploaded images are skipped the next time.

    """
    from worker.images import describe_passed_over, find_images

    if not folder.is_dir():
        raise UsageError(f"--upload {folder}: there is no such folder")
    others: Counter[str] = Counter()
    paths = list(find_images([folder], others))
    present = {entry.key for page in list_pages(store, store.bucket, prefix) for entry in page.objects}
    advance = begin(len(paths))

    def send(path: Path) -> tuple[str, bool]:
        key, is_sent = _send(store, prefix, folder, path, present)
        advance()
        return key, is_sent

    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            sent = list(threads.map(send, paths))
        except BaseException:
            threads.shutdown(cancel_futures=True)  # the first error ends the upload at once
            raise
    lines = [json.dumps({"uri": f"s3://{store.bucket}/{key}"}, ensure_ascii=False) for key, _ in sent]
    manifest = _put_manifest(store, prefix, "".join(f"{line}\n" for line in lines).encode(), ".jsonl")
    sent_count = sum(is_sent for _, is_sent in sent)
    return Uploaded(manifest, sent_count, len(paths) - sent_count, describe_passed_over(others) if others else "")


def upload_manifest(store: ObjectStore, file: Path, data: bytes) -> str:
    """Store a local manifest and return its URI; its extension, which says how it is read, is kept.

    Raises: ObjectStoreError.
    """
    suffix = file.suffix.lower() if file.suffix.isascii() else ""
    return _put_manifest(store, f"{PREFIX}manifests/", data, suffix or ".txt")


def _put_manifest(store: ObjectStore, prefix: str, data: bytes, suffix: str) -> str:
    key = f"{prefix}{_digest(data)}{suffix}"
    store.put_object(store.bucket, key, data, "text/plain; charset=utf-8")
    return f"s3://{store.bucket}/{key}"


def _send(store: ObjectStore, prefix: str, folder: Path, path: Path, present: set[str]) -> tuple[str, bool]:
    """Return the key of a file and whether it was sent."""
    from worker.images.files import read_file

    data = read_file(path, _MOST_BYTES)
    key = f"{prefix}{_digest(data)}/{_key(path.relative_to(folder))}"
    if key in present:
        return key, False
    store.put_object(store.bucket, key, data, mimetypes.guess_type(path.name)[0] or "application/octet-stream")
    return key, True


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGEST_LETTERS]


def _key(path: Path) -> str:
    """Return a path as a key. Keys are UTF-8; a file name that is not keeps its bytes as escapes."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()
