"""The settings of a worker process."""

import math
import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from car.options import CrfBackend, Precision
from db.settings import EngineSettings


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the CPUs that this process may run on, or fewer if its container's quota (docker --cpus) is smaller.

    torch ignores the quota: on a host of 64 cores with a quota of two, its 64 threads would wait for each other.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """Return the container's CPU limit in CPUs; None if there is none or it cannot be read."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None


class WorkerSettings(EngineSettings):
    """What a worker reads from the environment in addition to EngineSettings."""

    models: str = Field(default="demo", alias="CAR_MODELS", description="demo, openai, or a folder of models")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", alias="CAR_DEVICE", description="auto: CUDA if available, else the CPU"
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        alias="CAR_PRECISION",
        description="float32, bfloat16 or float16; auto: float32 on a CPU, float16 on CUDA",
    )
    batch: int = Field(
        default=0, ge=0, le=256, alias="CAR_BATCH", description="images in the models at a time; 0: chosen by device"
    )
    crf_backend: CrfBackend = Field(
        default=CrfBackend.LATTICE,
        alias="CAR_CRF",
        description="CRF backend: lattice (built in, on the device) or pydensecrf (the reference, on the CPU)",
    )
    lease_seconds: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        alias="CAR_LEASE_SECONDS",
        description="seconds without a heartbeat until items are queued again",
    )
    maintenance_seconds: float = Field(
        default=10.0,
        ge=0.5,
        le=300,
        alias="CAR_MAINTENANCE_SECONDS",
        description="seconds between checks for expired leases",
    )
    slice_seconds: float = Field(
        default=300.0,
        ge=1,
        le=1200,
        alias="CAR_SLICE_SECONDS",
        description="longest run of a segmentation task, in seconds",
    )
    fetch_threads: int = Field(
        default=8, ge=1, le=64, alias="CAR_FETCH_THREADS", description="images fetched and decoded in parallel"
    )
    postprocess_processes: int = Field(
        default_factory=lambda: max(1, usable_cpus() - 1),
        ge=0,
        le=256,
        alias="CAR_POSTPROCESS_PROCESSES",
        description="processes that run the CRF and encode masks; default: usable CPUs minus one",
    )
    store_threads: int = Field(
        default=8, ge=1, le=64, alias="CAR_STORE_THREADS", description="results written to S3 in parallel"
    )
    max_pixels: int = Field(
        default=50_000_000, ge=1, alias="CAR_MAX_PIXELS", description="largest image in pixels; larger ones fail"
    )
    max_bytes: int = Field(
        default=64 * 2**20, ge=1, alias="CAR_MAX_BYTES", description="largest image file in bytes; larger ones fail"
    )
    image_memory_bytes: int = Field(
        default=2 * 2**30,
        ge=1,
        alias="CAR_IMAGE_BYTES",
        description="bytes of decoded images above which fetching pauses",
    )
    sync_seconds: float = Field(
        default=300.0,
        ge=0,
        le=86400,
        alias="CAR_SYNC_SECONDS",
        description="seconds between syncs of Label Studio's projects, for tasks no webhook reported; 0: never",
    )
    publish_threads: int = Field(
        default=4, ge=1, le=32, alias="CAR_PUBLISH_THREADS", description="predictions sent to Label Studio in parallel"
    )
    preset: str = Field(
        default="voc", alias="CAR_PRESET", description="recipe of projects that name none; the same as the API's"
    )
    allowed_hosts: str = Field(
        default="",
        alias="CAR_ALLOWED_HOSTS",
        description="hosts in private networks that images may be fetched from: host or host:port, comma-separated",
    )
    fetch_seconds: float = Field(
        default=60.0,
        ge=1,
        le=600,
        alias="CAR_FETCH_SECONDS",
        description="longest time for fetching one image, in seconds",
    )
