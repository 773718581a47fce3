"""`car label-studio sync`, `backfill`, `status`, `feedback` with a stand-in for Label Studio, the real API and rows."""

import json
import threading
import time

import pytest
import uvicorn
from typer.testing import CliRunner

from api.app import create_app
from api.settings import ApiSettings
from cli.main import app
from db import api_keys, model_registry
from db.label_studio import outbox, project_sync, projects, tasks
from db.label_studio.outbox import complete_items
from db.label_studio.tasks import TaskSubmission
from db.queue import items
from db.queue.items import FailedItem
from tests.support.api_client import api_names
from tests.support.label_studio_rows import WEIGHTS, ProjectRows, config
from tests.support.rows import LEASE


class Backfill:
    """The command line, and beside it what workers would do."""

    def __init__(self, environment, database, studio, folder):
        self.studio, self.rows = studio, ProjectRows(database)
        self.rows.sql("DELETE FROM project")
        self.rows.do(model_registry.register, "*", "*", WEIGHTS)
        self.project = studio.add_project(config(), title="Shelves")
        self.tasks = studio.add_tasks(self.project, ["s3://b/1.png", "s3://b/2.png", "s3://b/3.png"])
        key = self.rows.do(lambda session: api_keys.create(session, "cli", [api_keys.Scope.WRITE])[1])
        self.mine = {**environment, "CAR_API_KEY": key, "CAR_DATA_DIR": str(folder)}
        self.mine |= {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
        self.fails, self.stop = set(), threading.Event()

    def car(self, *words, code=0):
        ran = CliRunner().invoke(app, ["label-studio", *map(str, words)], env=self.mine)
        assert ran.exit_code == code, ran.output
        assert "Traceback" not in ran.output
        return ran

    def work(self):
        """Syncs, segments and writes back, until it is told to stop."""
        while not self.stop.wait(0.05):
            claim = self.rows.do(project_sync.claim, "io", LEASE, instance=self.studio.url)
            if claim is not None:
                self.rows.do(self._look, claim)
            for item in self.rows.do(items.claim, "gpu", limit=1, lease=LEASE):
                self._segment(item)
            for one in self.rows.do(outbox.claim, "io", limit=5, lease=LEASE, instance=self.studio.url):
                self._send(one)

    def _look(self, session, claim):
        known = projects.find(session, claim.ls_project_id)
        asked = [
            TaskSubmission(ls_task_id=number, uri=self.studio.tasks[number]["data"]["image"]) for number in self.tasks
        ]
        tasks.submit(session, known, asked, weights=WEIGHTS)
        last, count = self.tasks[-1], len(self.tasks)
        assert project_sync.advance(session, "io", claim, cursor=last, seen=count, total=count, lease=LEASE)
        assert project_sync.finish(session, "io", claim)

    def _segment(self, item):
        if item.uri in self.fails:
            failed = FailedItem(item, "image_corrupt", f"{item.uri} is broken", retryable=False)
            self.rows.do(items.fail, "gpu", [failed])
        else:
            self.rows.do(complete_items, "gpu", [items.CompletedItem(item, self.rows.result_of(item), reused=False)])

    def _send(self, one):
        body = {
            "task": one.ls_task_id,
            "project": one.ls_project_id,
            "model_version": one.model_version,
            "result": [],
            "score": 1,
        }
        self.rows.do(outbox.store_rendered, "io", [(one, json.dumps(body), 1.0)], keep=True)
        stored = self.studio.add(self.studio.stored, "prediction", body)
        assert self.rows.do(outbox.mark_sent, "io", one, stored["id"])


@pytest.fixture
def backfill(engine_environment, database, label_studio, tmp_path):
    made = Backfill(engine_environment, database, label_studio, tmp_path / "data")
    settings = {name: value for name, value in engine_environment.items() if name in api_names()}
    settings |= {"CAR_PRESET": "demo", "LABEL_STUDIO_URL": label_studio.url}
    server = uvicorn.Server(uvicorn.Config(create_app(ApiSettings(**settings)), port=0, log_level="critical"))
    threads = [threading.Thread(target=server.run), threading.Thread(target=made.work)]
    threads[0].start()
    try:
        while not server.started:
            assert threads[0].is_alive()
            time.sleep(0.01)
        made.mine["CAR_API_URL"] = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        made.worker = threads[1]
        yield made
    finally:
        server.should_exit = True
        made.stop.set()
        for thread in threads:
            if thread.is_alive():
                thread.join()


def documents(ran):
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]


def test_a_dry_run_counts_what_lacks_a_prediction_and_queues_nothing(backfill):
    ran = backfill.car("backfill", "--project", 1, "--dry-run", "--json")
    assert "3 of 3 tasks have no prediction" in ran.stderr
    (told,) = documents(ran)
    assert (told["lacking"], told["model_version"][:4]) == (3, "car-")
    assert backfill.rows.sql("SELECT count(*) FROM item")[0].count == 0


def test_every_task_of_a_project_that_nothing_told_of_gets_its_prediction(backfill):
    backfill.worker.start()
    ran = backfill.car("backfill", "--project", 1, "--use")
    assert "every task has a prediction of car-" in ran.stderr
    versions = {one["model_version"] for one in backfill.studio.stored.values()}
    assert [one["task"] for one in backfill.studio.stored.values()] == backfill.tasks
    assert {backfill.studio.projects[1]["model_version"]} == versions
    again = backfill.car("backfill", "--project", 1)
    assert "0 of 3 tasks have no prediction" in again.stderr
    assert len(backfill.studio.stored) == 3


def test_a_task_that_cannot_have_one_is_named_with_its_reason(backfill):
    backfill.fails.add("s3://b/2.png")
    backfill.worker.start()
    ran = backfill.car("backfill", "--project", 1, code=1)
    assert "1 tasks have no prediction" in ran.stderr
    assert "s3://b/2.png is broken (image_corrupt)" in ran.stdout
    shown = backfill.car("status", "--project", 1, "--tasks", "failed", code=1).stdout
    assert "1 failed" in shown
    assert "image_corrupt" in shown
    backfill.fails.clear()
    retried = backfill.car("status", "--project", 1, "--retry")
    assert "1 images and 0 predictions are tried again" in retried.stderr
    backfill.car("backfill", "--project", 1)
    assert len(backfill.studio.stored) == 3


def test_a_sync_is_watched_to_its_end_and_says_what_it_found(backfill):
    backfill.worker.start()
    ran = backfill.car("sync", "--project", 1, "--json")
    assert "3 tasks are known" in ran.stderr
    (told,) = documents(ran)
    assert (told["sync"]["seen"], told["sync"]["total"], told["sync"]["wanted_at"]) == (3, 3, None)
    table = backfill.car("status").stdout
    assert "Shelves" in table
    assert backfill.studio.url in table


def test_what_nobody_knows_is_said_so(backfill):
    assert "no project is known yet" in backfill.car("status").stderr
    assert "is not connected" in backfill.car("status", "--project", 9, code=2).stderr
    assert "need --project" in backfill.car("status", "--retry", code=2).stderr
    assert "no project 9" in backfill.car("backfill", "--project", 9, code=2).stderr
    backfill.car("backfill", "--project", 1, "--dry-run")
    assert "no annotation has been submitted" in backfill.car("feedback", "--project", 1).stderr
