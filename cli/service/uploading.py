"""A folder's pictures into the service's bucket, each once."""

import hashlib
import mimetypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from car.object_store import ObjectStore
from cli.errors import UsageError

_THREADS = 8
_MOST_BYTES = 2**30


@dataclass(frozen=True)
class Uploaded:
    source: str
    """What a job takes: the prefix under which the pictures lie."""
    sent: int
    present: int
    """Were there already, with the same bytes."""


def upload(store: ObjectStore, folder: Path, prefix: str, begin: Callable[[int], Callable[[], None]]) -> Uploaded:
    """Put the pictures below the folder under the prefix, as their paths in it. `begin` is told their number, and
    gives what is called after each.

    Raises:
        WrongUse: no such folder.
        ImageError: no pictures in it, or a file that cannot be read.
        ObjectStoreError: the bucket is missing, closed or silent. What was sent is skipped the next time.

    """
    from worker.images import find_images

    if not folder.is_dir():
        raise UsageError(f"--upload {folder}: there is no such folder")
    pictures = {prefix + _key(path.relative_to(folder)): path for path in find_images([folder])}
    there = _present(store, prefix)
    done = begin(len(pictures))

    def send(key: str, path: Path) -> bool:
        sent = _send(store, key, path, there.get(key))
        done()
        return sent

    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            sent = sum(threads.map(send, pictures, pictures.values()))
        except BaseException:
            threads.shutdown(cancel_futures=True)  # the first fault ends it, and not after all the others
            raise
    return Uploaded(f"s3://{store.bucket}/{prefix}", sent, len(pictures) - sent)


def _send(store: ObjectStore, key: str, path: Path, etag: str | None) -> bool:
    from worker.images.files import read_file

    data = read_file(path, _MOST_BYTES)
    # S3 says the MD5 of what was put in one piece. Where it says something else, the picture is sent again.
    if etag == hashlib.md5(data, usedforsecurity=False).hexdigest():
        return False
    store.put_object(store.bucket, key, data, mimetypes.guess_type(path.name)[0] or "application/octet-stream")
    return True


def _present(store: ObjectStore, prefix: str) -> dict[str, str]:
    """ETags by key."""
    found: dict[str, str] = {}
    after = ""
    while page := store.page(store.bucket, prefix, after=after):
        found |= {one.key: one.etag for one in page}
        after = page[-1].key
    return found


def _key(path: Path) -> str:
    """Keys are UTF-8; a file name that is not keeps its bytes as escapes."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()
