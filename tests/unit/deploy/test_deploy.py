"""docker-compose.yml, the images' files and .env.example: valid, complete, and in step with the code.

No image is built here: that takes a Docker engine.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import textwrap
import tomllib
from importlib import resources

import jsonschema
import pytest
import typer.main
import yaml

from cli.main import app
from db.settings import EngineSettings
from tests.support.paths import ROOT
from worker.settings import WorkerSettings

DEPLOY = ROOT / "deploy"
FILES = [ROOT / "docker-compose.yml", *sorted(DEPLOY.glob("compose.*.yml"))]
OURS = {"migrate", "api", "worker-gpu", "worker-io", "scheduler", "models"}
ONE_SHOT = {"migrate", "models"}
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "AWS_SECRET_ACCESS_KEY")
DOCS = (ROOT / "docs" / "deploy.md").read_text()
"""Named in the design, read by nothing yet."""


class ComposeLoader(yaml.SafeLoader):
    """Compose's own tags: !reset takes a value of an earlier file away, !override puts another in its place."""


ComposeLoader.add_constructor("!reset", lambda *_: None)
ComposeLoader.add_constructor("!override", lambda loader, node: loader.construct_mapping(node, deep=True))


def parse(text):
    return yaml.load(text, ComposeLoader)  # noqa: S506 - a SafeLoader


def load(path):
    return parse(path.read_text())


def complaints(document):
    """What the compose specification's schema, as check-jsonschema ships it, has against a file."""
    schema = json.loads((resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    return [error.message for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(document)]


COMPOSE = load(ROOT / "docker-compose.yml")
SERVICES = COMPOSE["services"]


def settings_classes():
    classes = {"engine": EngineSettings, "worker": WorkerSettings}
    if importlib.util.find_spec("api.settings"):
        from api.settings import ApiSettings  # noqa: PLC0415 - the API may be absent

        classes["api"] = ApiSettings
    return classes


def aliases(settings):
    return {field.alias for field in settings.model_fields.values()}


def example():
    """The variables of .env.example, commented out or not."""
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))


def interpolated(value, variables):
    """What Compose makes of ${NAME} and ${NAME:-default}, inner ones first."""
    pattern = re.compile(r"\$\{([A-Z0-9_]+)(?::-([^${}]*))?\}")
    while pattern.search(value):
        value = pattern.sub(lambda match: variables.get(match[1]) or match[2] or "", value)
    return value


def environment(service, variables):
    """What a container is given. A variable without a value comes from .env, or not at all."""
    given = SERVICES[service].get("environment", {})
    return {
        name: interpolated(value, variables) if value is not None else variables[name]
        for name, value in given.items()
        if value is not None or name in variables
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_compose_files_follow_the_compose_specification(path):
    assert complaints(load(path)) == []


def test_the_schema_refuses_what_is_not_compose():
    assert complaints({"services": {"api": {"imagee": "x"}}}) != []


def test_compose_files_of_the_docs_follow_the_specification():
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    assert blocks
    assert [complaints(parse(textwrap.dedent(block))) for block in blocks] == [[]] * len(blocks)


def test_the_docs_name_variables_and_services_that_exist():
    named = set(
        re.findall(r"\b((?:CAR|COMPOSE|POSTGRES|REDIS|AWS|S3|HF)_[A-Z0-9_]+|DATABASE_URL|[A-Z]+_BROKER_URL)\b", DOCS)
    )
    assert named - set(example()) == {"CAR_API_URL", "CAR_API_KEY"}  # those are the client's
    assert set(re.findall(r"docker compose exec (?:-\S+ )*(\S+)", DOCS)) <= set(SERVICES)
    assert set(re.findall(r"docker compose run --rm (?:-\S+ )*([a-z]\S*)", DOCS)) <= set(SERVICES)


def test_the_first_step_of_the_docs_makes_every_secret(tmp_path):
    (tmp_path / "deploy").mkdir()
    shutil.copy(DEPLOY / ".env.example", tmp_path / "deploy")
    step = textwrap.dedent(re.search(r"```\n(.*?)```", DOCS, re.DOTALL)[1])
    subprocess.run(["bash", "-euc", step], cwd=tmp_path, check=True, timeout=30)
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o077 == 0
    given = dict(re.findall(r"^([A-Z][A-Z0-9_]*)=(.*)$", made.read_text(), re.MULTILINE))
    assert all(given.values())
    assert len({given[name] for name in SECRETS}) == len(SECRETS)


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: path.name)
def test_overrides_change_services_that_exist(path):
    assert set(load(path)["services"]) <= set(SERVICES)


def test_the_cpu_override_takes_the_gpu_away():
    override = load(DEPLOY / "compose.cpu.yml")["services"]["worker-gpu"]
    assert "deploy" in SERVICES["worker-gpu"]
    assert override["deploy"] is None
    assert "!reset" in (DEPLOY / "compose.cpu.yml").read_text()
    assert override["environment"]["CAR_DEVICE"] == "cpu"


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_runs_with_the_least_it_needs(name):
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in {"", "0", "root"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.split(":")[0] == "/tmp" for mount in service["tmpfs"])  # noqa: S108 - the container's own
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT))
def test_long_running_services_are_watched_and_restarted(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert service["stop_grace_period"] == "45s"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_by_tag(name):
    image = interpolated(SERVICES[name]["image"], {})
    assert re.fullmatch(r"[^:@]+:[A-Za-z0-9._-]+", image)
    assert not image.endswith(":latest")


def test_the_images_carry_the_version_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in OURS:
        assert interpolated(SERVICES[name]["image"], {}).endswith(f":{version}")


def test_only_the_api_and_the_demos_label_studio_are_published_and_only_to_this_host():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert {name: [interpolated(port, {}) for port in ports] for name, ports in published.items()} == {
        "api": ["127.0.0.1:9090:9090"],
        "label-studio": ["127.0.0.1:8080:8080"],
    }


def test_the_demos_label_studio_may_call_a_private_backend_and_reaches_no_engine():
    service = SERVICES["label-studio"]
    assert service["profiles"] == ["demo"]
    assert service["networks"] == ["outside"]
    assert {service["environment"][name] for name in ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED")} == {"false"}
    assert "demo" not in dict(re.findall(r"^([A-Z_]+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))[
        "COMPOSE_PROFILES"
    ].split(",")


def test_engines_are_on_a_network_without_a_way_out():
    assert COMPOSE["networks"]["engines"]["internal"] is True
    for name in ("postgres", "redis", "s3"):
        assert SERVICES[name]["networks"] == ["engines"]
        assert SERVICES[name]["profiles"] == [name]


def test_nothing_starts_before_what_it_needs():
    conditions = {"migrate": "service_completed_successfully"}
    for name, service in SERVICES.items():
        for other, how in (service.get("depends_on") or {}).items():
            assert how["condition"] == conditions.get(other, "service_healthy"), (name, other)
            assert how.get("required", True) == ("profiles" not in SERVICES[other]), (name, other)
    for name in OURS - ONE_SHOT:
        assert "migrate" in SERVICES[name]["depends_on"]


def test_volumes_and_mounted_files_exist():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], volume


def test_every_variable_of_the_compose_files_is_in_the_example():
    used = set()
    for path in FILES:
        used |= set(re.findall(r"\$\{([A-Z0-9_]+)", re.sub(r"#.*", "", path.read_text())))
        for service in load(path)["services"].values():
            used |= {name for name, value in (service.get("environment") or {}).items() if value is None}
    assert used - set(example()) == set()


def test_every_setting_is_in_the_example_and_nothing_else_is():
    known = set().union(*map(aliases, settings_classes().values()))
    compose = {"COMPOSE_PROFILES", "COMPOSE_FILE"}
    for path in FILES:
        compose |= set(re.findall(r"\$\{([A-Z0-9_]+)", path.read_text()))
    compose |= {name for service in SERVICES.values() for name in service.get("environment") or {}}
    assert known - set(example()) == set()
    assert set(example()) - known - compose == set()


def test_every_variable_of_the_example_is_explained():
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"#?[A-Z][A-Z0-9_]*=", line) and not before.startswith("# ")
    ]
    assert bare == []


def test_the_defaults_that_the_example_states_are_the_defaults():
    stated = {
        name: value
        for name, value in re.findall(r"^#([A-Z][A-Z0-9_]*)=(.+)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE)
        if name in aliases(WorkerSettings)
    }
    needed = {"DATABASE_URL": "postgresql://a", "CELERY_BROKER_URL": "redis://a", "S3_BUCKET": "car"}
    assert stated
    assert WorkerSettings(**needed, **stated) == WorkerSettings(**needed)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("engine", "migrate"), ("worker", "worker-gpu"), ("worker", "worker-io"), ("worker", "scheduler"), ("api", "api")],
)
def test_a_filled_in_example_is_all_that_a_process_needs(kind, name, monkeypatch):
    settings = settings_classes().get(kind)
    if settings is None:
        pytest.fail("api.settings is missing")
    text = (DEPLOY / ".env.example").read_text()
    variables = dict(re.findall(r"^([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE))
    variables |= dict.fromkeys(SECRETS, "5ec7e7")
    given = environment(name, variables)
    for variable in aliases(settings):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    made = settings.from_environment()
    assert made.database_url.get_secret_value() == "postgresql://car:5ec7e7@postgres:5432/car"
    assert made.celery_broker_url.get_secret_value() == "redis://:5ec7e7@redis:6379/0"
    assert aliases(settings) <= set(SERVICES[name]["environment"])


def commands():
    for name in sorted(OURS):
        yield pytest.param(SERVICES[name]["command"], id=f"{name}")
        test = SERVICES[name].get("healthcheck", {}).get("test", [])
        if "-m" in test:
            yield pytest.param(test[1:], id=f"{name}-health")
    for dockerfile in ("api", "worker"):
        words = re.findall(r"^CMD (\[.*\])$", (DEPLOY / f"Dockerfile.{dockerfile}").read_text(), re.MULTILINE)
        yield pytest.param(json.loads(words[0]), id=f"image-{dockerfile}")


@pytest.mark.parametrize("command", list(commands()))
def test_containers_start_commands_that_exist(command):
    if command[0] == "python":
        module = command[command.index("-m") + 1]
        found = importlib.util.find_spec(module)
        assert found is not None, module
        assert found.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__"), module
        return
    found = typer.main.get_command(app)
    for word in command[1:]:
        if word.startswith("--"):
            assert any(word in parameter.opts for parameter in found.params), (command, word)
        elif hasattr(found, "commands"):
            assert word in found.commands, (command, word)
            found = found.commands[word]
