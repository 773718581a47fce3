"""As root, PostgreSQL runs as an unprivileged user, also where that user cannot enter the data or program folders."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import psycopg
import pytest

from cli.embedded import start_engines
from cli.embedded.postgres_programs import WHEEL, postgres_program
from cli.embedded.wheels import files_of, program
from cli.errors import EngineFailedError
from cli.service.child_launcher import launch_command
from tests.support.paths import ROOT

USERS = [name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()}]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user"),
    pytest.mark.skipif(not USERS, reason="there is no user postgres or nobody"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]


@pytest.fixture
def closed(tmp_path):
    """A folder that root alone may enter."""
    folder = tmp_path / "root's own, with spaces"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def entered(tmp_path_factory):
    """A folder that everybody may enter."""
    folder = Path(f"/var/tmp/car-test-{os.getpid()}-{tmp_path_factory.mktemp('x').name}")  # noqa: S108 - made here, or the test fails
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def status_of(data_dir):
    """What the kernel says of the PostgreSQL that runs on the folder."""
    pid = (data_dir / "run" / "postgres.pid").read_text().split()[0]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def test_the_data_may_lie_where_the_user_cannot_enter(closed):
    for attempt in (1, 2):
        with start_engines(closed / "data", durable=True, which=["postgres"]) as engines:
            status = status_of(closed / "data")
            assert "0" not in status["Uid"] + status["Gid"]
            assert set(status["CapEff"] + status["CapPrm"]) == {"0" * 16}
            with psycopg.connect(engines.environment["DATABASE_URL"]) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS attempts (number int)")
                connection.execute("INSERT INTO attempts VALUES (%s)", [attempt])
                connection.execute("SELECT pg_reload_conf()")
                assert connection.execute("SELECT count(*) FROM attempts").fetchone() == (attempt,)
    data = (closed / "data" / "postgres").stat()
    assert (pwd.getpwuid(data.st_uid).pw_name, data.st_mode & 0o777) == (USERS[0], 0o700)
    assert closed.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in (closed / "data").iterdir()} == {
        *("engines.json", "lock", "logs", "postgres", "redis", "run", "s3")
    }


def test_two_folders_have_databases_of_their_own(closed):
    with (
        start_engines(closed / "one", durable=False, which=["postgres"]) as one,
        start_engines(closed / "two", durable=False, which=["postgres"]) as two,
    ):
        with psycopg.connect(one.environment["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE only_here ()")
        with psycopg.connect(two.environment["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT to_regclass('only_here')").fetchone() == (None,)


def test_data_of_a_user_who_is_not_here_are_refused_in_words(closed):
    (closed / "data" / "postgres").mkdir(parents=True)
    os.chown(closed / "data" / "postgres", 54_321, 54_321)
    with pytest.raises(EngineFailedError, match=r"number 54321.* chown -R"):
        start_engines(closed / "data", durable=False, which=["postgres"])


@pytest.fixture
def closed_wheel(closed, monkeypatch):
    """PostgreSQL's wheel installed where only root can enter, as in an environment in root's own home."""
    site = Path(str(metadata.distribution(WHEEL).locate_file(""))).resolve()
    for name, path in files_of(WHEEL).items():
        target = closed / "site" / Path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.is_relative_to(site):
            shutil.copy2(path, target)
    monkeypatch.syspath_prepend(str(closed / "site"))
    assert program(WHEEL, "/bin/postgres$").is_relative_to(closed)


@contextmanager
def mounted(folder, options):
    """A file system of its own in the folder."""
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("this root may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("closed_wheel")
def test_programs_that_the_user_cannot_reach_are_copied_once_and_whole(entered, closed):
    user = USERS[0]
    copy = postgres_program("18", user, parents=[closed, entered])  # the first is closed, too
    assert copy.is_relative_to(entered)
    assert not list(closed.glob("car-labeler/pginstall*"))
    made = copy.stat().st_mtime_ns
    assert postgres_program("18", user, parents=[entered]) == copy
    assert copy.stat().st_mtime_ns == made

    data = closed / "database"
    data.mkdir(mode=0o700)
    shutil.chown(data, user)
    command = [str(copy.with_name("initdb")), "-D", "/proc/self/cwd", "--no-sync", "--locale=C", "--username=car"]
    subprocess.run(launch_command(command, deadly=signal.SIGKILL, user=user), cwd=data, check=True, capture_output=True)
    assert (data / "PG_VERSION").read_text() == "18\n"

    for path in copy.parents[1].rglob("*.sql"):
        path.unlink()  # as what cleans up old temporary files may
    assert postgres_program("18", user, parents=[entered]) == copy
    assert list(copy.parents[1].rglob("*.sql"))


@pytest.mark.usefixtures("closed_wheel")
def test_a_place_that_will_not_do_is_named_with_a_way_out(entered):
    theirs = entered / "theirs"
    (theirs / "car-labeler").mkdir(parents=True)
    shutil.chown(theirs / "car-labeler", USERS[0])
    with (
        mounted(entered / "small", "size=4m") as small,
        mounted(entered / "noexec", "noexec") as noexec,
        pytest.raises(EngineFailedError) as refused,
    ):
        postgres_program("18", USERS[0], parents=[theirs, small, noexec, entered / "missing"])
    said = str(refused.value)
    assert f"{theirs}: another user may write" in said
    assert f"{small}: No space left on device" in said
    assert f"{noexec}: the user may not enter it, or it is mounted noexec" in said
    assert f"{entered / 'missing'}: No such file or directory" in said
    assert "Set TMPDIR" in said


def test_a_plain_user_runs_it_as_himself(entered):
    shutil.chown(entered, "nobody")
    script = """
import sys, pathlib, psycopg
from cli.embedded import start_engines
with start_engines(pathlib.Path(sys.argv[1]), durable=False, which=["postgres"]) as engines:
    with psycopg.connect(engines.environment["DATABASE_URL"]) as connection:
        print(connection.execute("SHOW data_directory").fetchone()[0])
"""
    root = ROOT
    command = launch_command(
        [sys.executable, "-c", script, str(entered / "his data")], deadly=signal.SIGKILL, user="nobody"
    )
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env={"PATH": os.defpath})
    if "Permission denied" in done.stderr and str(root) in done.stderr:
        pytest.skip("nobody cannot reach this checkout")
    assert done.stdout.strip() == str(entered / "his data" / "postgres"), done.stderr
