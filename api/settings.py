"""The settings of the web process."""

from pydantic import Field, field_validator

from car.presets import PRESETS
from db.settings import EngineSettings


class ApiSettings(EngineSettings):
    """What the API reads from the environment besides where its engines are."""

    preset: str = Field(
        default="voc", alias="CAR_PRESET", description="recipe of jobs that name none; demo where the models are"
    )
    max_body: int = Field(
        default=2**20, ge=1024, le=2**26, alias="CAR_API_MAX_BODY", description="bytes of a request; more is refused"
    )
    presign_seconds: int = Field(
        default=300, ge=10, le=900, alias="CAR_API_PRESIGN_SECONDS", description="how long links to objects work"
    )
    drawings: int = Field(
        default=2, ge=1, le=64, alias="CAR_API_DRAWINGS", description="overlays and masks drawn at a time"
    )

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"unknown preset {value!r}; known presets: {', '.join(PRESETS)}")
        return value
