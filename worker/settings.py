"""The settings of a worker process."""

from typing import Literal

from pydantic import Field

from car.options import CrfBackend, Precision
from db.settings import EngineSettings
from worker.cpu_count import usable_cpus


class WorkerSettings(EngineSettings):
    """What a worker reads from the environment besides where its engines are."""

    models: str = Field(default="demo", alias="CAR_MODELS", description="demo, openai, or a folder of models")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", alias="CAR_DEVICE", description="auto: CUDA where there is one"
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        alias="CAR_PRECISION",
        description="auto: float32 on a CPU, float16 on CUDA; float32, bfloat16 or float16",
    )
    batch: int = Field(
        default=0,
        ge=0,
        le=256,
        alias="CAR_BATCH",
        description="pictures that are under way through the models; 0: by device",
    )
    crf_by: CrfBackend = Field(
        default=CrfBackend.LATTICE,
        alias="CAR_CRF",
        description="who computes the CRF: lattice (ours, on the device) or pydensecrf (the reference, on the CPU)",
    )
    lease_seconds: float = Field(
        default=30.0, ge=1, le=3600, alias="CAR_LEASE_SECONDS", description="a silent worker's pictures go on after it"
    )
    reap_seconds: float = Field(
        default=10.0, ge=0.5, le=300, alias="CAR_REAP_SECONDS", description="between looks for what was lost"
    )
    slice_seconds: float = Field(
        default=300.0, ge=1, le=1200, alias="CAR_SLICE_SECONDS", description="a task works so long at most, then rings"
    )
    fetch_threads: int = Field(
        default=8, ge=1, le=64, alias="CAR_FETCH_THREADS", description="pictures fetched and decoded at a time"
    )
    finish_processes: int = Field(
        default_factory=lambda: max(1, usable_cpus() - 1),
        ge=0,
        le=256,
        alias="CAR_FINISH_PROCESSES",
        description="processes beside the model that sharpen and code masks; by default one less than cores it may use",
    )
    store_threads: int = Field(
        default=8, ge=1, le=64, alias="CAR_STORE_THREADS", description="results that are written to S3 at a time"
    )
    max_pixels: int = Field(
        default=50_000_000, ge=1, alias="CAR_MAX_PIXELS", description="a picture of more is refused by its header"
    )
    max_bytes: int = Field(
        default=64 * 2**20, ge=1, alias="CAR_MAX_BYTES", description="a picture's file of more is not fetched"
    )
    picture_bytes: int = Field(
        default=2 * 2**30,
        ge=1,
        alias="CAR_PICTURE_BYTES",
        description="while decoded pictures in hand take more, the next wait to be fetched",
    )
    sync_seconds: float = Field(
        default=300.0,
        ge=0,
        le=86400,
        alias="CAR_SYNC_SECONDS",
        description="between looks at Label Studio's projects for tasks that no webhook told; 0: never",
    )
    publish_threads: int = Field(
        default=4, ge=1, le=32, alias="CAR_PUBLISH_THREADS", description="predictions written back at a time"
    )
    preset: str = Field(
        default="voc", alias="CAR_PRESET", description="recipe of projects whose backend names none, as the API has it"
    )
    allowed_hosts: str = Field(
        default="",
        alias="CAR_ALLOWED_HOSTS",
        description="host or host:port,… that pictures may be fetched from although they are in a private network",
    )
    fetch_seconds: float = Field(
        default=60.0, ge=1, le=600, alias="CAR_FETCH_SECONDS", description="a picture that takes longer is given up"
    )
