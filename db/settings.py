"""Where rows, objects and doorbells are: the settings that every process of the service shares."""

import os
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.errors import SettingsInvalidError

_SCHEMES: dict[str, tuple[str, ...]] = {
    "database_url": ("postgresql://", "postgres://", "postgresql+psycopg://"),
    "celery_broker_url": ("redis://", "rediss://", "redis+socket://", "sentinel://"),
    "aws_endpoint_url_s3": ("http://", "https://"),
    "s3_public_endpoint": ("http://", "https://"),
    "label_studio_url": ("http://", "https://"),
}

OTHER_NAMES = {"LABEL_STUDIO_HOST": "LABEL_STUDIO_URL", "LABEL_STUDIO_ACCESS_TOKEN": "LABEL_STUDIO_API_KEY"}
"""As backends of Label Studio's own kit are configured."""

Prefix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!_.*'()/-]*$")]


class EngineSettings(BaseSettings):
    """Read from the environment, under the names people know. Every field says in its description what it is for."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore", hide_input_in_errors=True)

    database_url: SecretStr = Field(
        alias="DATABASE_URL", description="PostgreSQL, as postgresql://user:password@host:5432/name"
    )
    celery_broker_url: SecretStr = Field(
        alias="CELERY_BROKER_URL", description="Redis, as redis://:password@host:6379/0; it may forget everything"
    )
    s3_bucket: str = Field(alias="S3_BUCKET", min_length=3, description="bucket that masks are written to")
    s3_prefix: Prefix = Field(default="car/", alias="S3_PREFIX", description="what keys of masks begin with")
    aws_endpoint_url_s3: str | None = Field(
        default=None, alias="AWS_ENDPOINT_URL_S3", description="S3 server other than AWS: SeaweedFS, MinIO, Ceph"
    )
    aws_access_key_id: str | None = Field(
        default=None, alias="AWS_ACCESS_KEY_ID", description="without it: boto3's own search (instance role, profile)"
    )
    aws_secret_access_key: SecretStr | None = Field(
        default=None, alias="AWS_SECRET_ACCESS_KEY", description="of the access key"
    )
    aws_session_token: SecretStr | None = Field(
        default=None, alias="AWS_SESSION_TOKEN", description="of temporary credentials"
    )
    aws_region: str = Field(default="us-east-1", alias="AWS_REGION", description="region of the bucket")
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        alias="CAR_S3_ADDRESSING",
        description="path: host/bucket/key; virtual: bucket.host/key; auto: path where an endpoint is set",
    )
    s3_public_endpoint: str | None = Field(
        default=None,
        alias="CAR_S3_PUBLIC_ENDPOINT",
        description="S3 as browsers reach it, for presigned links, where it is not AWS_ENDPOINT_URL_S3",
    )
    label_studio_url: str | None = Field(
        default=None,
        alias="LABEL_STUDIO_URL",
        description="Label Studio, as this service reaches it; without it pictures on it cannot be fetched",
    )
    label_studio_api_key: SecretStr | None = Field(
        default=None,
        alias="LABEL_STUDIO_API_KEY",
        description="token of a Label Studio user, legacy or personal; with it predictions are written back",
    )
    database_pool: int = Field(
        default=10, ge=1, le=200, alias="CAR_DATABASE_POOL", description="connections a process keeps at most"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", alias="LOG_LEVEL", description="least severity that is logged"
    )

    @field_validator(
        "database_url", "celery_broker_url", "aws_endpoint_url_s3", "s3_public_endpoint", "label_studio_url"
    )
    @classmethod
    def _of_a_known_scheme(cls, value: SecretStr | str | None, info: ValidationInfo) -> SecretStr | str | None:
        known = _SCHEMES[info.field_name or ""]
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if plain is not None and not plain.startswith(known):
            raise ValueError(f"must begin with {' or '.join(known)}")
        return value

    @field_validator("label_studio_url")
    @classmethod
    def _without_slash(cls, value: str | None) -> str | None:
        return value.rstrip("/") if value else value

    @model_validator(mode="after")
    def _key_and_secret_go_together(self) -> Self:
        if bool(self.aws_access_key_id) != bool(self.aws_secret_access_key):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together; set both or neither")
        return self

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator(
        "aws_endpoint_url_s3",
        "s3_public_endpoint",
        "aws_access_key_id",
        "aws_secret_access_key",
        "label_studio_url",
        "label_studio_api_key",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @classmethod
    def from_environment(cls, **known: str) -> Self:
        """The settings of this process; what is `known`, by the names of the variables, counts before the environment.

        Raises:
            SettingsInvalidError: what is missing or wrong, by the names of the variables; never their values.

        """
        for usual, ours in OTHER_NAMES.items():
            if os.environ.get(usual) and not os.environ.get(ours):
                known.setdefault(ours, os.environ[usual])
        try:
            return cls(**known)  # type: ignore[arg-type]
        except ValidationError as error:
            lines = [": ".join([*map(str, one["loc"]), _told(one["msg"])]) for one in error.errors()]
            raise SettingsInvalidError("the environment is not complete: " + "; ".join(lines)) from None


def _told(message: str) -> str:
    """Pydantic's sentence in the middle of ours."""
    message = message.removeprefix("Value error, ")
    return message if message.startswith("AWS") else message[:1].lower() + message[1:]


class _DatabaseAlone(BaseSettings):
    database_url: str = Field(alias="DATABASE_URL")


def database_url_alone() -> str:
    """For tools that need no other engine, with the driver of this code base."""
    return "postgresql+psycopg://" + _DatabaseAlone().database_url.split("://", 1)[-1]
