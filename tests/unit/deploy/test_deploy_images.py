"""What goes into the images: files that exist, versions that were tested, and no torch for the API.

The images themselves are built where there is a Docker engine.
"""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"


def copied(dockerfile):
    """What COPY takes from the repository; not from another stage."""
    text = (DEPLOY / dockerfile).read_text()
    lines = re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
    assert lines
    return [source for line in lines for source in shlex.split(line)[:-1]]


@pytest.mark.parametrize("dockerfile", ["Dockerfile.api", "Dockerfile.worker"])
def test_what_an_image_copies_exists_and_is_let_through(dockerfile):
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    tracked = set(
        subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )
    for source in copied(dockerfile):
        assert any(Path(source).match(pattern) for pattern in allowed), source
        assert any(path == source or path.startswith(f"{source}/") for path in tracked), source


@pytest.mark.parametrize("dockerfile", ["Dockerfile.api", "Dockerfile.worker"])
def test_an_image_holds_every_package_of_the_wheel(dockerfile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) | {"pyproject.toml", "README.md", "hatch_build.py"} <= set(copied(dockerfile))


@pytest.mark.parametrize("dockerfile", ["Dockerfile.api", "Dockerfile.worker"])
def test_an_image_runs_as_nobody_in_particular_and_takes_signals(dockerfile):
    text = (DEPLOY / dockerfile).read_text()
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", final, re.MULTILINE)
    assert re.search(r"^CMD \[", final, re.MULTILINE)
    assert "PYTHONDONTWRITEBYTECODE=1" in final
    assert "--require-hashes" in text


def locked(path):
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", path.read_text(), re.MULTILINE))


def test_the_api_image_has_no_torch():
    # OpenCV comes with label-studio-sdk, whose part that uses it is not imported.
    heavy = re.compile(r"torch|transformers|nvidia|triton|safetensors|pydensecrf|huggingface|cuda")
    names = locked(DEPLOY / "requirements-api.lock")
    assert {"fastapi", "uvicorn", "sqlalchemy", "typer"} <= set(names)
    assert [name for name in names if heavy.search(name)] == []


@pytest.mark.parametrize("image", ["api", "worker", "build"])
def test_images_install_what_was_tested(image):
    """The versions of the two locks of `make install`, with a hash each. Out of step: make lock-images."""
    path = DEPLOY / f"requirements-{image}.lock"
    whole = "".join((ROOT / name).read_text() for name in ("requirements.lock", "requirements-reference.lock"))
    blocks = [block for block in re.split(r"\n(?=[a-z])", path.read_text()) if block]
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert all(f"{name}=={version}" in whole for name, version in locked(path).items())


def test_locks_hold_what_the_project_asks_for():
    """Every dependency of the extras stands in the lock of its image."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for image, wanted in {"api": ("engine", "api", "cli"), "worker": ("engine", "worker", "reference", "cli")}.items():
        names = locked(DEPLOY / f"requirements-{image}.lock")
        asked = {re.split(r"[\[<>=]", one)[0] for extra in wanted for one in extras[extra]} - {"car-labeler"}
        assert asked - set(names) == set(), image


@pytest.mark.slow
def test_the_api_runs_from_its_lock_alone(tmp_path):
    """The steps of Dockerfile.api without Docker: its lock, a wheel of what it copies, and no torch to be found."""
    uv = Path(sys.executable).parent / "uv"
    source, python = tmp_path / "src", tmp_path / "venv" / "bin" / "python"
    for name in copied("Dockerfile.api"):
        paths = subprocess.run(["git", "ls-files", name], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for path in paths.splitlines():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes((ROOT / path).read_bytes())

    def run(*words, cwd=source):
        done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(uv, "venv", "--python", sys.executable, tmp_path / "venv")
    run(uv, "pip", "install", "--python", python, "--require-hashes", "-r", source / "deploy/requirements-api.lock")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "wheels")
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    run(uv, "pip", "install", "--python", python, "--no-deps", wheel)
    run(python.parent / "car", "--help", cwd=tmp_path)
    modules = "api.app, api.__main__, worker.celery_app, worker.settings, db.schema, db.objects, migrations.versions"
    check = f"import sys, importlib.util, cli.main, {modules}; assert importlib.util.find_spec('torch') is None"
    run(python, "-I", "-c", check, cwd=tmp_path)
