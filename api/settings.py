"""The settings of the web process."""

from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from car.presets import PRESETS
from db.settings import EngineSettings


class ApiSettings(EngineSettings):
    """Settings of the API, besides the addresses of its services."""

    preset: str = Field(
        default="voc", alias="CAR_PRESET", description="recipe of jobs that name none; `demo` with the demo models"
    )
    max_body: int = Field(
        default=2**20, ge=1024, le=2**26, alias="CAR_API_MAX_BODY", description="most bytes of a request body"
    )
    presign_seconds: int = Field(
        default=300,
        ge=10,
        le=900,
        alias="CAR_API_PRESIGN_SECONDS",
        description="lifetime of links to objects, in seconds",
    )
    drawings: int = Field(
        default=2,
        ge=1,
        le=64,
        alias="CAR_API_DRAWINGS",
        description="overlays and masks that are drawn at the same time",
    )

    models: str = Field(
        default="demo",
        alias="CAR_MODELS",
        description="demo, openai, or a folder of models; the same as for the workers",
    )
    basic_auth_user: str | None = Field(
        default=None, alias="BASIC_AUTH_USER", description="user name that Label Studio sends"
    )
    basic_auth_pass: SecretStr | None = Field(
        default=None, alias="BASIC_AUTH_PASS", description="password that Label Studio sends"
    )
    webhook_secret: SecretStr | None = Field(
        default=None, alias="CAR_WEBHOOK_SECRET", description="secret that Label Studio's webhook sends as X-Car-Token"
    )
    predict_wait_seconds: float = Field(
        default=3.0,
        ge=0,
        le=60,
        alias="PREDICT_WAIT_SECONDS",
        description="seconds that a smart tool waits for its prediction",
    )
    predict_max_body: int = Field(
        default=64 * 2**20,
        ge=2**16,
        le=2**30,
        alias="CAR_PREDICT_MAX_BODY",
        description="most bytes of a request of Label Studio, which sends all selected tasks at once",
    )
    predict_max_answer: int = Field(
        default=32 * 2**20,
        ge=2**16,
        le=2**30,
        alias="CAR_PREDICT_MAX_ANSWER",
        description="most bytes of predictions in one response; the others are written back or sent with a later one",
    )

    @field_validator("basic_auth_user", "basic_auth_pass", "webhook_secret", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @model_validator(mode="after")
    def _user_and_password_go_together(self) -> Self:
        if bool(self.basic_auth_user) != bool(self.basic_auth_pass):
            raise ValueError("BASIC_AUTH_USER and BASIC_AUTH_PASS go together; set both or neither")
        return self

    @field_validator("preset")
    @classmethod
    def _is_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"unknown preset {value!r}; known presets: {', '.join(PRESETS)}")
        return value
