"""Objects in any S3: the service's own (masks, label maps, previews) and its users' images.

Keys of the service's own objects contain digests of their content, so a repeated put is harmless and no object changes.
"""

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.loaders import create_loader

from car.object_store import KeyPage, ObjectInfo
from db.errors import (
    AccessDeniedError,
    BucketMissingError,
    ClockSkewedError,
    CredentialsExpiredError,
    ObjectMissingError,
    ObjectStoreError,
    ObjectTooLargeError,
    SettingsInvalidError,
    StoreUnreachableError,
)
from db.settings import EngineSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TRANSIENT = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"),
    *("RequestTimeout", "OperationAborted", "ConditionalRequestConflict"),
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_DENIED_HINTS = {
    "InvalidAccessKeyId": "the server does not know AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not match AWS_ACCESS_KEY_ID",
}
_DENIED = {"AccessDenied", "Forbidden", "403", "401", *_DENIED_HINTS}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500
_GZIP = b"\x1f\x8b"
_MAX_LINE_BYTES = 64 * 1024
_CACHE_CONTROL = "private, max-age=31536000, immutable"
_DEFAULT_REGION, _DEFAULT_ATTEMPTS = "us-east-1", 4
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
_loader = cache(create_loader)
"""What botocore reads about S3 from its files, which takes most of the time of making a client."""


@dataclass(frozen=True, slots=True)
class StoreTimeouts:
    """Limits for one request to an S3 server."""

    connect: float = 5
    read: float = 30
    """Seconds without a byte."""
    attempts: int | None = None
    """None: AWS_MAX_ATTEMPTS or the profile's max_attempts, or 4."""


def make_client(
    settings: EngineSettings, *, connections: int = 32, public: bool = False, timeouts: StoreTimeouts = StoreTimeouts()
) -> "S3Client":
    """Return a thread-safe client. `public` uses the address that browsers reach. What neither the settings nor
    `timeouts` say is taken from the user's AWS configuration: environment and profile.

    Raises: SettingsInvalidError, if AWS_PROFILE names no profile or the configuration cannot be read.
    """
    # boto3's default session is shared by the process, and making clients from it in threads is not safe.
    core = botocore.session.get_session()
    core.register_component("data_loader", _loader())
    endpoint = (settings.s3_public_endpoint if public else None) or settings.aws_endpoint_url_s3
    try:
        configured = core.get_scoped_config()
        region = settings.aws_region or core.get_config_variable("region") or _DEFAULT_REGION
        attempts = timeouts.attempts or core.get_config_variable("max_attempts") or _DEFAULT_ATTEMPTS
        retry_mode = core.get_config_variable("retry_mode")
    except (exceptions.BotoCoreError, ValueError) as error:
        raise SettingsInvalidError(f"the AWS configuration cannot be used: {error}; check AWS_PROFILE") from error
    s3_section = configured.get("s3")
    s3_options = dict(s3_section) if isinstance(s3_section, dict) else {}
    if settings.s3_addressing != "auto":
        s3_options["addressing_style"] = settings.s3_addressing
    elif endpoint:
        s3_options.setdefault("addressing_style", "path")
    # Other S3 servers refuse AWS's additional checksums, or store them as data.
    checksums: dict[str, Any] = {
        name: os.environ.get(f"AWS_{name.upper()}") or configured.get(name) or "when_required" for name in _CHECKSUMS
    }
    secret, token = settings.aws_secret_access_key, settings.aws_session_token
    return boto3.session.Session(botocore_session=core).client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=settings.aws_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=token.get_secret_value() if token else None,
        config=Config(
            signature_version="s3v4",
            s3=s3_options,  # type: ignore[arg-type] # the user's own section
            connect_timeout=timeouts.connect,
            read_timeout=timeouts.read,
            retries={"total_max_attempts": attempts, "mode": retry_mode},
            max_pool_connections=connections,
            tcp_keepalive=True,
            **checksums,
        ),
    )


@dataclass(frozen=True)
class S3ObjectStore:
    """The service's own objects under `bucket`/`prefix`, and read access to any other bucket. All methods raise
    subclasses of ObjectStoreError instead of boto3's errors.
    """

    client: "S3Client"
    bucket: str
    prefix: str = ""
    public_client: "S3Client | None" = None

    @classmethod
    def from_settings(
        cls, settings: EngineSettings, *, connections: int = 32, timeouts: StoreTimeouts = StoreTimeouts()
    ) -> "S3ObjectStore":
        client = make_client(settings, connections=connections, timeouts=timeouts)
        public = make_client(settings, public=True) if settings.s3_public_endpoint else None
        return cls(client, settings.s3_bucket, settings.s3_prefix, public)

    # The service's own objects

    def put(self, name: str, data: bytes, content_type: str) -> str:
        """Store an object of the service and return its key. Equal names have equal bytes: a repetition is harmless."""
        key = self.prefix + name
        with _translate_errors(self.client, self.bucket, key):
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, CacheControl=_CACHE_CONTROL
            )
        return key

    def has(self, name: str) -> bool:
        """Return whether `put` has stored this name."""
        try:
            self.head(self.bucket, self.prefix + name)
        except ObjectMissingError:
            return False
        return True

    def get(self, key: str) -> bytes:
        """Return the bytes of a key that `put` returned."""
        return self.read(self.bucket, key)

    def presign(self, key: str, *, seconds: int = 900, download: str | None = None) -> str:
        """Return a link to one of the service's own keys that works without credentials, for at most 15 minutes.
        Browsers save the object as `download`.
        """
        parameters = {"Bucket": self.bucket, "Key": key}
        if download:
            safe = re.sub(r"[^A-Za-z0-9._-]", "_", download)
            parameters["ResponseContentDisposition"] = f'attachment; filename="{safe}"'
        client = self.public_client or self.client
        with _translate_errors(client, self.bucket, key):
            return client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=min(seconds, 900))

    def ready(self) -> None:
        """Raise the error that prevents the use of the service's own bucket."""
        self.check_bucket(self.bucket)

    def ensure_bucket(self) -> bool:
        """Create the service's own bucket if it is missing; return whether it was."""
        try:
            self.ready()
        except BucketMissingError:
            meta = self.client.meta
            aws_region = meta.endpoint_url.endswith("amazonaws.com") and meta.region_name != "us-east-1"
            location = {"CreateBucketConfiguration": {"LocationConstraint": meta.region_name}} if aws_region else {}
            with _translate_errors(self.client, self.bucket):
                self.client.create_bucket(Bucket=self.bucket, **location)  # type: ignore[arg-type] # any region
            return True
        return False

    # Objects of any bucket

    def check_bucket(self, bucket: str) -> None:
        """Raises: BucketMissingError, AccessDeniedError, StoreUnreachableError."""
        with _translate_errors(self.client, bucket):
            # A HEAD response has no body with the reason; a listing of one key is as cheap and has one.
            self.client.list_objects_v2(Bucket=bucket, MaxKeys=1)

    def read(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return all bytes of an object. More than `max_bytes` raise ObjectTooLargeError before any is read."""
        with _translate_errors(self.client, bucket, key):
            answer = self.client.get_object(Bucket=bucket, Key=key)
            size = answer["ContentLength"]
            if max_bytes is not None and size > max_bytes:
                answer["Body"].close()
                raise ObjectTooLargeError(
                    f"s3://{bucket}/{key} has {size:,} bytes, above the {max_bytes / 2**20:.4g} MiB allowed; "
                    "save it smaller or raise CAR_MAX_BYTES"
                )
            data = answer["Body"].read()
        if len(data) != size:
            raise StoreUnreachableError(f"s3://{bucket}/{key} ended after {len(data):,} of {size:,} bytes")
        if "gzip" not in answer.get("ContentEncoding", "") or not data.startswith(_GZIP):
            return data
        unpacked = _gunzip(data, max_bytes)
        if max_bytes is not None and len(unpacked) > max_bytes:
            raise ObjectTooLargeError(
                f"s3://{bucket}/{key} unpacks to more than the {max_bytes / 2**20:.4g} MiB allowed; save it smaller or "
                "raise CAR_MAX_BYTES"
            )
        return unpacked

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return an object's etag and size."""
        with _translate_errors(self.client, bucket, key):
            answer = self.client.head_object(Bucket=bucket, Key=key)
        return ObjectInfo(key, answer["ETag"].strip('"'), answer["ContentLength"])

    def put_object(self, bucket: str, key: str, data: bytes, content_type: str) -> None:
        """Store a user's image, or replace it."""
        with _translate_errors(self.client, bucket, key):
            self.client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=content_type)

    def lines(self, bucket: str, key: str, *, after: int = 0) -> Iterator[tuple[int, str]]:
        """Yield an object's lines from the offset `after`, each with the offset of the next one.

        At most 256 KiB are in memory: lines are cut after 64 KiB. Bytes that are not UTF-8 are replaced.
        """
        if after and after >= self.head(bucket, key).size:
            return
        with _translate_errors(self.client, bucket, key):
            # An empty object refuses any range.
            object_range = {"Range": f"bytes={after}-"} if after else {}
            answer = self.client.get_object(Bucket=bucket, Key=key, **object_range)  # type: ignore[arg-type]
            offset, remainder, skipped = after, b"", 0
            with closing(answer["Body"]) as body:
                for chunk in body.iter_chunks(256 * 1024):
                    *lines, last = (remainder + chunk).split(b"\n")
                    for line in lines:
                        offset += len(line) + 1 + skipped
                        skipped = 0
                        yield offset, line[:_MAX_LINE_BYTES].decode("utf-8", "replace")
                    remainder = last[:_MAX_LINE_BYTES]
                    skipped += len(last) - len(remainder)
            if remainder:
                yield offset + len(remainder) + skipped, remainder.decode("utf-8", "replace")

    def page(self, bucket: str, prefix: str, *, after: str = "", token: str = "") -> KeyPage:
        """Return up to 1,000 objects whose keys begin with `prefix` and follow `after` or `token`, in the server's
        order: AWS sorts by bytes, SeaweedFS folder by folder.
        """
        position = {"ContinuationToken": token} if token else {"StartAfter": after}
        with _translate_errors(self.client, bucket):
            answer = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix, **position)  # type: ignore[arg-type]
        listed = [
            ObjectInfo(entry["Key"], entry["ETag"].strip('"'), entry["Size"]) for entry in answer.get("Contents", [])
        ]
        return KeyPage(listed, answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else "")


def _gunzip(data: bytes, max_bytes: int | None) -> bytes:
    """Return the unpacked bytes, at most one more than `max_bytes`. What is damaged stays as it is: no image format
    begins like it, so that the image's own error says so.
    """
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data, 0 if max_bytes is None else max_bytes + 1)
    except zlib.error:
        return data


@contextmanager
def _translate_errors(client: "S3Client", bucket: str, key: str | None = None) -> Iterator[None]:
    """Raise boto3's errors as ours, with the address and what to do."""
    address = f"s3://{bucket}" + (f"/{key}" if key is not None else "")
    endpoint = client.meta.endpoint_url
    try:
        yield
    except exceptions.ClientError as error:
        raise _refusal(error, address, bucket, endpoint) from error
    except exceptions.NoCredentialsError as error:
        raise AccessDeniedError(
            f"there are no credentials for {address}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except exceptions.ParamValidationError as error:
        raise BucketMissingError(f"{bucket!r} is not a valid bucket name") from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise StoreUnreachableError(f"the S3 server {endpoint} does not answer; check AWS_ENDPOINT_URL_S3") from error
    except exceptions.BotoCoreError as error:
        raise StoreUnreachableError(f"{address} could not be reached ({type(error).__name__})") from error


def _refusal(error: exceptions.ClientError, address: str, bucket: str, endpoint: str) -> ObjectStoreError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind: type[ObjectStoreError] = ObjectStoreError
    message = f"{address}: the S3 server refused the request ({code or status})"
    if code == "NoSuchBucket":
        kind = BucketMissingError
        message = f"there is no bucket {bucket!r} at {endpoint}; check its name and AWS_ENDPOINT_URL_S3"
    elif code in ("NoSuchKey", "404", "NotFound"):
        kind, message = ObjectMissingError, f"{address} does not exist"
    elif code in _EXPIRED:
        kind = CredentialsExpiredError
        message = (
            f"access to {address} is denied: AWS_SESSION_TOKEN or the profile's credentials have expired ({code}); "
            "renew them and restart the service"
        )
    elif code == "RequestTimeTooSkewed":
        kind = ClockSkewedError
        message = (
            f"access to {address} is denied: the clock of this machine differs from that of the S3 server; "
            "synchronize it (NTP)"
        )
    elif code in _DENIED:
        kind = AccessDeniedError
        message = f"access to {address} is denied: {_DENIED_HINTS.get(code, 'these credentials lack the right')}"
    elif code in _TRANSIENT or status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
        kind, message = StoreUnreachableError, f"{address}: the S3 server is overloaded or fails ({code or status})"
    elif code in _OTHER_REGION:
        message = f"{address} is in another region than AWS_REGION ({code})"
    return kind(message)
