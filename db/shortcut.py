"""One object read or written over boto3's own connections at a third of boto3's CPU time: signed here, without its
rules, hooks and parsers, and without the round trip of its `Expect: 100-continue`.

Only what succeeds at once is done here. Whatever else happens, the answer is None and the call is boto3's, which tries
again, follows redirects and names the error: an object is written or read twice without harm.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SAMPLE = "sample"
_BOTO3S = {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}
"""A bucket that answers so is another region's, or wants what boto3 alone knows: it is left to boto3 from then on."""


class Shortcut:
    """Of one client, whose credentials, addressing, time limits, certificates and proxies it shares. Thread-safe."""

    def __init__(self, client: "S3Client") -> None:
        self._client: Any = client  # what it is asked for has no types, and some of it no name of its own
        self._addresses: dict[str, str | None] = {}

    def put(self, bucket: str, key: str, data: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the object is written."""
        return self._send("PUT", bucket, key, data, headers) is not None

    def get(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes | None:
        """The whole object, or None also where it is larger than `max_bytes`."""
        return self._send("GET", bucket, key, b"", {}, max_bytes=max_bytes)

    def _send(
        self, method: str, bucket: str, key: str, body: bytes, headers: Mapping[str, str], max_bytes: int | None = None
    ) -> bytes | None:
        base = self._address(bucket)
        # Such paths are shortened on their way, and the signature would be of another one.
        if base is None or any(part in ("", ".", "..") for part in key.split("/")):
            return None
        try:
            signed = self._signed(method, base + quote(key, safe="/~"), body, headers)
            if signed is None:
                return None
            answer = self._client._endpoint.http_session.send(signed)  # noqa: SLF001
            length = answer.headers.get("Content-Length")
            if answer.status_code == HTTPStatus.OK and max_bytes is not None and int(length or 0) > max_bytes:
                answer.raw.close()
                return None
            content: bytes = answer.content  # read to its end in any case, to give the connection back
        except (BotoCoreError, HTTPError, OSError, ValueError):
            return None
        if answer.status_code in _BOTO3S:
            self._addresses[bucket] = None
        whole = method == "PUT" or (length is not None and len(content) == int(length))
        return content if answer.status_code == HTTPStatus.OK and whole else None

    def _address(self, bucket: str) -> str | None:
        """What comes before a key, as boto3 itself would have it; None for buckets that are boto3's."""
        if bucket not in self._addresses:
            try:
                link = self._client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": _SAMPLE})
            except (BotoCoreError, ClientError):
                return None
            base = link.partition("?")[0]
            self._addresses[bucket] = base.removesuffix(_SAMPLE) if base.endswith("/" + _SAMPLE) else None
        return self._addresses[bucket]

    def _signed(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> AWSPreparedRequest | None:
        """AWS Signature Version 4. None where there are no credentials, or nothing is to be signed."""
        credentials = self._client._request_signer._credentials  # noqa: SLF001
        if credentials is None or self._client.meta.config.signature_version != "s3v4":
            return None
        keys = credentials.get_frozen_credentials()
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        where = urlsplit(url)
        digest = hashlib.sha256(body).hexdigest()
        mine = {**headers, "host": where.netloc, "x-amz-content-sha256": digest, "x-amz-date": moment}
        if keys.token:
            mine["x-amz-security-token"] = keys.token
        names = ";".join(sorted(mine))
        lines = "".join(f"{name}:{mine[name]}\n" for name in sorted(mine))
        request = f"{method}\n{where.path}\n\n{lines}\n{names}\n{digest}"
        scope = (moment[:8], self._client.meta.region_name, "s3", "aws4_request")
        place = "/".join(scope)
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{place}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = f"AWS4{keys.secret_key}".encode()
        for part in (*scope, to_sign):
            key = hmac.digest(key, part.encode(), "sha256")
        mine["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{place}, SignedHeaders={names}, Signature={key.hex()}"
        )
        # boto3 itself gives a mapping here, whatever its types say.
        return AWSPreparedRequest(method, url, mine, body, stream_output=True)  # type: ignore[arg-type]
