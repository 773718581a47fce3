"""Requests and responses of Label Studio. The models of requests only document bodies that are parsed by hand."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from api.schemas.common import ConfigProblem, ResponseModel


class HealthResponse(ResponseModel):
    status: Literal["UP"]
    model_class: Literal["CarLabeler"]


class SetupResponse(ResponseModel):
    model_version: str = Field(
        description="Label Studio asks again for tasks without a prediction of this version",
        examples=["car-0.1.0+8f31c2d0.1b2c3d4e.0a1b2c3d.9f8e7d6c"],
    )
    problems: list[ConfigProblem] = Field(description="parts of the labeling configuration that cannot be mapped")


class WebhookResponse(ResponseModel):
    status: Literal["ok", "Unknown event"]
    detail: str | None = None


class SetupRequest(BaseModel):
    project: str = Field(examples=["2.1795220370"], description="id and creation time")
    schema_: str = Field(alias="schema", description="labeling configuration, XML")
    hostname: str = Field(default="", examples=["http://localhost:8080"])
    access_token: str = Field(default="", description="neither used nor stored")
    extra_params: dict[str, Any] | str | None = None


class PredictRequest(BaseModel):
    tasks: list[dict[str, Any]]
    project: str = Field(examples=["2.1795220370"])
    label_config: str
    params: dict[str, Any] = Field(
        default={},
        description="`context` holds the prompt of a smart tool; login and password are neither used nor stored",
    )


class Predictions(BaseModel):
    results: list[dict[str, Any] | list[Any]] = Field(
        description="one per task: its prediction, or [] if there is none yet"
    )


class WebhookRequest(BaseModel):
    action: str = Field(examples=["TASKS_CREATED"])
    project: dict[str, Any] = {}
    tasks: list[dict[str, Any]] | None = None


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that its route parses by hand."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
