"""Objects in any S3: the service's own (masks, label maps, previews) and the pictures of its users.

The service's own keys are made of content digests, so a put is repeated without harm and nothing is ever changed.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
)
from botocore.exceptions import (
    ConnectionError as NoConnection,
)
from botocore.loaders import Loader, create_loader

from db.errors import (
    AccessDeniedError,
    BucketMissingError,
    ObjectMissingError,
    ObjectStoreError,
    ObjectTooLargeError,
    StoreUnreachableError,
)
from db.settings import EngineSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_DENIED = {"AccessDenied", "Forbidden", "403", "401", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_SERVER_ERROR = 500
_LINE = 64 * 1024
_FOR_EVER = "private, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Listed:
    """A key of a listing."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class StoreTimeouts:
    """How long a server of S3 is waited for."""

    connect: float = 5
    read: float = 30
    """Seconds without a byte."""
    attempts: int = 4


def make_client(
    settings: EngineSettings,
    *,
    connections: int = 32,
    public: bool = False,
    timeouts: StoreTimeouts = StoreTimeouts(),
) -> "S3Client":
    """A thread-safe client. `public`: for links that leave the service's network."""
    endpoint = (settings.s3_public_endpoint if public else None) or settings.aws_endpoint_url_s3
    addressing = settings.s3_addressing
    if addressing == "auto" and endpoint:
        addressing = "path"
    secret, token = settings.aws_secret_access_key, settings.aws_session_token
    return _session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.aws_region,
        aws_access_key_id=settings.aws_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=token.get_secret_value() if token else None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": addressing},
            connect_timeout=timeouts.connect,
            read_timeout=timeouts.read,
            retries={"total_max_attempts": timeouts.attempts, "mode": "standard"},
            max_pool_connections=connections,
            tcp_keepalive=True,
            # Checksums beyond the signature are AWS's own; other servers of S3 refuse them or take them for data.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _session() -> boto3.session.Session:
    """A session of its own: boto3's default one is shared by the process and not safe to make clients in threads. What
    botocore knows of S3 is read from its files once a process: that takes most of the time of making a client.
    """
    core = botocore.session.get_session()
    core.register_component("data_loader", _what_botocore_knows())
    return boto3.session.Session(botocore_session=core)


@cache
def _what_botocore_knows() -> Loader:
    return create_loader()


@dataclass(frozen=True)
class ObjectStore:
    """The service's own objects under `bucket`/`prefix`, and reading access to any other bucket.

    Every method raises ObjectStoreError's subclasses and nothing of boto3's.
    """

    client: "S3Client"
    bucket: str
    prefix: str = ""
    public_client: "S3Client | None" = None

    @classmethod
    def of(
        cls,
        settings: EngineSettings,
        *,
        connections: int = 32,
        timeouts: StoreTimeouts = StoreTimeouts(),
    ) -> "ObjectStore":
        client = make_client(settings, connections=connections, timeouts=timeouts)
        public = make_client(settings, public=True) if settings.s3_public_endpoint else None
        return cls(client, settings.s3_bucket, settings.s3_prefix, public)

    # The service's own objects

    def put(self, name: str, data: bytes, content_type: str) -> str:
        """The key under which the bytes lie now. Equal names hold equal bytes, so that a repetition changes nothing."""
        key = self.prefix + name
        with _in_words(self.client, self.bucket, key):
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, CacheControl=_FOR_EVER
            )
        return key

    def has(self, name: str) -> bool:
        """Whether `put` has stored these bytes before."""
        try:
            self.head(self.bucket, self.prefix + name)
        except ObjectMissingError:
            return False
        return True

    def get(self, key: str) -> bytes:
        """The bytes of one of our own keys, as `put` returned it."""
        return self.read(self.bucket, key)

    def presign(self, key: str, *, seconds: int = 900, download: str | None = None) -> str:
        """A link to one of our own keys that works without credentials for at most 15 minutes. `download` is the name
        under which a browser saves it.
        """
        parameters = {"Bucket": self.bucket, "Key": key}
        if download:
            safe = "".join(
                letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in download
            )
            parameters["ResponseContentDisposition"] = f'attachment; filename="{safe}"'
        client = self.public_client or self.client
        with _in_words(client, self.bucket, key):
            return client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=min(seconds, 900))

    def ready(self) -> None:
        """Raises: what stands in the way of using the service's own bucket."""
        self.check_bucket(self.bucket)

    def ensure_bucket(self) -> bool:
        """Make the service's own bucket where it is missing; whether it was."""
        try:
            self.ready()
        except BucketMissingError:
            with _in_words(self.client, self.bucket):
                self._create()
            return True
        return False

    # Anybody's objects

    def check_bucket(self, bucket: str) -> None:
        """Raises: BucketMissingError, AccessDeniedError, StoreUnreachableError."""
        with _in_words(self.client, bucket):
            # HEAD answers without a body, so S3 could not say why; one key of a listing is as cheap and does.
            self.client.list_objects_v2(Bucket=bucket, MaxKeys=1)

    def read(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes:
        """All bytes of an object.

        Raises:
            ObjectTooLargeError: more than `max_bytes`; found before they are fetched.

        """
        with _in_words(self.client, bucket, key):
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
            raise StoreUnreachableError(f"s3://{bucket}/{key} was cut off after {len(data):,} of {size:,} bytes")
        return data

    def head(self, bucket: str, key: str) -> Listed:
        """An object without its bytes."""
        with _in_words(self.client, bucket, key):
            answer = self.client.head_object(Bucket=bucket, Key=key)
        return Listed(key, answer["ETag"].strip('"'), answer["ContentLength"])

    def put_object(self, bucket: str, key: str, data: bytes, content_type: str) -> None:
        """Put a user's picture where there is none, or another one."""
        with _in_words(self.client, bucket, key):
            self.client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=content_type)

    def lines(self, bucket: str, key: str, *, after: int = 0) -> Iterator[tuple[int, str]]:
        """An object's lines as text from the offset `after`, each with the offset at which the next one begins.

        Memory holds one piece of 256 KiB, whatever the object: of a line longer than 64 KiB only the beginning is
        given. What is no UTF-8 is replaced.
        """
        if after and after >= self.head(bucket, key).size:
            return
        with _in_words(self.client, bucket, key):
            answer = (
                self.client.get_object(Bucket=bucket, Key=key, Range=f"bytes={after}-")
                if after
                else (self.client.get_object(Bucket=bucket, Key=key))
            )
            offset, rest, skipped = after, b"", 0
            with closing(answer["Body"]) as body:
                for piece in body.iter_chunks(256 * 1024):
                    *whole, rest_of_piece = (rest + piece).split(b"\n")
                    for line in whole:
                        offset += len(line) + 1 + skipped
                        skipped = 0
                        yield offset, line[:_LINE].decode("utf-8", "replace")
                    rest = rest_of_piece[:_LINE]
                    skipped += len(rest_of_piece) - len(rest)
            if rest:
                yield offset + len(rest) + skipped, rest.decode("utf-8", "replace")

    def page(self, bucket: str, prefix: str, *, after: str = "") -> list[Listed]:
        """Up to 1,000 keys that begin with `prefix` and come after `after`, in the server's order: AWS sorts by bytes,
        SeaweedFS goes folder by folder.
        """
        with _in_words(self.client, bucket):
            answer = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix, StartAfter=after)
        return [Listed(one["Key"], one["ETag"].strip('"'), one["Size"]) for one in answer.get("Contents", [])]

    def _create(self) -> None:
        region = self.client.meta.region_name
        if self.client.meta.endpoint_url.endswith("amazonaws.com") and region != "us-east-1":
            self.client.create_bucket(
                Bucket=self.bucket,
                CreateBucketConfiguration={"LocationConstraint": region},  # type: ignore[typeddict-item] # any region
            )
        else:
            self.client.create_bucket(Bucket=self.bucket)


@contextmanager
def _in_words(client: "S3Client", bucket: str, key: str | None = None) -> Iterator[None]:
    """Errors of boto3 as ours, with the address and what to do."""
    place = f"s3://{bucket}" + (f"/{key}" if key is not None else "")
    endpoint = client.meta.endpoint_url
    try:
        yield
    except ClientError as error:
        raise _translated(error, place, bucket, endpoint) from error
    except NoCredentialsError as error:
        raise AccessDeniedError(
            f"there are no credentials for {place}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except ParamValidationError as error:
        raise BucketMissingError(f"{bucket!r} cannot be the name of a bucket") from error
    except (NoConnection, HTTPClientError) as error:
        raise StoreUnreachableError(f"the S3 server {endpoint} does not answer; check AWS_ENDPOINT_URL_S3") from error
    except BotoCoreError as error:
        raise StoreUnreachableError(f"{place} could not be reached ({type(error).__name__})") from error


def _translated(error: ClientError, place: str, bucket: str, endpoint: str) -> ObjectStoreError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return BucketMissingError(
            f"there is no bucket {bucket!r} at {endpoint}; check its name and AWS_ENDPOINT_URL_S3"
        )
    if code in ("NoSuchKey", "404", "NotFound"):
        return ObjectMissingError(f"{place} does not exist")
    if code in _DENIED:
        hints = {
            "InvalidAccessKeyId": "the server does not know AWS_ACCESS_KEY_ID",
            "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is not the one of AWS_ACCESS_KEY_ID",
            "ExpiredToken": "AWS_SESSION_TOKEN has expired",
        }
        return AccessDeniedError(f"{place} may not be used: {hints.get(code, 'these credentials have no right to it')}")
    if code in _THROTTLED or status >= _SERVER_ERROR:
        return StoreUnreachableError(f"{place}: the S3 server is overloaded or broken ({code or status})")
    if code in _ELSEWHERE:
        return ObjectStoreError(f"{place} lies in another region than AWS_REGION says ({code})")
    return ObjectStoreError(f"{place}: S3 refused ({code or status})")
