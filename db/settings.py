"""Settings of the engines (PostgreSQL, Redis, S3, Label Studio) that all processes of the service share."""

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

_OPTIONAL = (
    *("aws_endpoint_url_s3", "s3_public_endpoint", "aws_access_key_id", "aws_secret_access_key"),
    *("aws_region", "label_studio_url", "label_studio_api_key"),
)

OTHER_NAMES = {
    "LABEL_STUDIO_HOST": "LABEL_STUDIO_URL",
    "LABEL_STUDIO_ACCESS_TOKEN": "LABEL_STUDIO_API_KEY",
    "AWS_DEFAULT_REGION": "AWS_REGION",
    "AWS_ENDPOINT_URL": "AWS_ENDPOINT_URL_S3",
}
"""Names that Label Studio's own ML backends and AWS's own tools use."""

Prefix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!_.*'()/-]*$")]


class EngineSettings(BaseSettings):
    """Settings from the environment. Every field has a description, which the documentation shows."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore", hide_input_in_errors=True)

    database_url: SecretStr = Field(
        alias="DATABASE_URL", description="PostgreSQL, as postgresql://user:password@host:5432/name"
    )
    celery_broker_url: SecretStr = Field(
        alias="CELERY_BROKER_URL", description="Redis, as redis://:password@host:6379/0; it may lose its data"
    )
    s3_bucket: str = Field(alias="S3_BUCKET", min_length=3, description="bucket that masks are written to")
    s3_prefix: Prefix = Field(default="car/", alias="S3_PREFIX", description="prefix of the keys of masks")
    aws_endpoint_url_s3: str | None = Field(
        default=None,
        alias="AWS_ENDPOINT_URL_S3",
        description="S3 server other than AWS: SeaweedFS, MinIO, Ceph; unset: AWS_ENDPOINT_URL",
    )
    aws_access_key_id: str | None = Field(
        default=None, alias="AWS_ACCESS_KEY_ID", description="unset: boto3's own search (instance role, profile)"
    )
    aws_secret_access_key: SecretStr | None = Field(
        default=None, alias="AWS_SECRET_ACCESS_KEY", description="secret of the access key"
    )
    aws_session_token: SecretStr | None = Field(
        default=None, alias="AWS_SESSION_TOKEN", description="token of temporary credentials"
    )
    aws_region: str | None = Field(
        default=None,
        alias="AWS_REGION",
        description="region of the bucket; unset: AWS_DEFAULT_REGION, the region of AWS_PROFILE, or us-east-1",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        alias="CAR_S3_ADDRESSING",
        description="path: host/bucket/key; virtual: bucket.host/key; auto: path if an endpoint is set, "
        "else as the AWS configuration says",
    )
    s3_public_endpoint: str | None = Field(
        default=None,
        alias="CAR_S3_PUBLIC_ENDPOINT",
        description="S3 as browsers reach it, for presigned links, if it is not AWS_ENDPOINT_URL_S3",
    )
    label_studio_url: str | None = Field(
        default=None,
        alias="LABEL_STUDIO_URL",
        description="Label Studio as this service reaches it; without it, images on it cannot be fetched",
    )
    label_studio_api_key: SecretStr | None = Field(
        default=None,
        alias="LABEL_STUDIO_API_KEY",
        description="token of a Label Studio user, legacy or personal; with it, predictions are written back",
    )
    database_pool: int = Field(
        default=10, ge=1, le=200, alias="CAR_DATABASE_POOL", description="maximum database connections of a process"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", alias="LOG_LEVEL", description="lowest severity that is logged"
    )

    @field_validator(*_SCHEMES)
    @classmethod
    def _has_known_scheme(cls, value: SecretStr | str | None, info: ValidationInfo) -> SecretStr | str | None:
        schemes = _SCHEMES[info.field_name or ""]
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if plain is not None and not plain.startswith(schemes):
            raise ValueError(f"must begin with {' or '.join(schemes)}")
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

    @field_validator(*_OPTIONAL, mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @classmethod
    def from_environment(cls, **values: str) -> Self:
        """Return the settings of this process. `values`, by the names of the variables, override the environment.
        Raises SettingsInvalidError, which names the variables that are missing or wrong, never their values.
        """
        for other_name, name in OTHER_NAMES.items():
            if os.environ.get(other_name) and not os.environ.get(name):
                values.setdefault(name, os.environ[other_name])
        try:
            return cls(**values)  # type: ignore[arg-type]
        except ValidationError as error:
            lines = [": ".join([*map(str, line["loc"]), _message(line["msg"])]) for line in error.errors()]
            raise SettingsInvalidError("the environment is incomplete or wrong: " + "; ".join(lines)) from None


def _message(message: str) -> str:
    """Return pydantic's sentence as a part of ours."""
    message = message.removeprefix("Value error, ")
    return message if message.startswith("AWS") else message[:1].lower() + message[1:]
