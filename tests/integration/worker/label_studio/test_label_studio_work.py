"""What workers do for Label Studio's rows besides segmenting: they tell their weights, and notice what waits."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

from car.recipe import Recipe
from db import model_registry
from db.label_studio import outbox, project_sync
from tests.support.label_studio_rows import INSTANCE, OTHER_WEIGHTS, WEIGHTS
from tests.support.rows import LEASE
from worker import bootstrap
from worker.maintenance import run_maintenance
from worker.models import ModelPaths
from worker.models.clip_model import load_model


def test_a_worker_tells_the_weights_of_each_pair_it_loads_once(rows, tiny_clips):
    places = ModelPaths(tiny_clips / "proposal", tiny_clips / "classifier")
    model = load_model(places, device="cpu", on_load=partial(bootstrap._register_models, rows.engine))
    assert rows.do(model_registry.weights_for, Recipe(proposal_model="any/model")) == dict(model.weights)
    before = rows.sql("SELECT * FROM worker_model")
    model.load(Recipe())
    assert rows.sql("SELECT * FROM worker_model") == before


def test_a_pair_of_one_recipe_is_offered_under_its_names(tiny_clips):
    recipe = Recipe(proposal_model=str(tiny_clips / "proposal"), classifier_model=str(tiny_clips / "classifier"))
    told = []
    model = load_model(
        ModelPaths(recipe.proposal_model, recipe.classifier_model), device="cpu", on_load=lambda *it: told.append(it)
    )
    model.models = None
    model._segmenters.clear()
    model.load(recipe)
    assert [names for names, *_ in told] == [None, (recipe.proposal_model, recipe.classifier_model, "")]


def test_a_worker_that_cannot_tell_its_weights_works_all_the_same(rows, tiny_clips):
    rows.sql("DROP TABLE worker_model")
    places = ModelPaths(tiny_clips / "proposal", tiny_clips / "classifier")
    assert load_model(places, device="cpu", on_load=partial(bootstrap._register_models, rows.engine)).weights


def test_the_reaper_sees_what_waits_for_label_studio(project):
    quiet = run_maintenance(project.engine, instance=INSTANCE)
    assert (quiet.has_predictions, quiet.has_syncs) == (False, False)
    project.ask(1)
    project.finish()
    assert run_maintenance(project.engine).has_predictions
    [one] = project.do(outbox.claim, "io", limit=1, lease=LEASE, instance=None)
    project.do(outbox.store_rendered, "io", [(one, "{}", 0.5)], keep=False)
    assert run_maintenance(project.engine, instance=INSTANCE).has_predictions
    assert not run_maintenance(project.engine).has_predictions
    assert not run_maintenance(project.engine, instance="http://elsewhere:8080").has_predictions


def test_the_reaper_wants_a_look_at_all_tasks_every_so_often(project):
    project.sql(
        "UPDATE project SET created_at = now() - interval '10 min', available_at = created_at - interval '10 min'"
    )
    assert not run_maintenance(project.engine, instance=INSTANCE, sync_every=timedelta(0)).has_syncs
    assert not run_maintenance(project.engine, instance=None, sync_every=timedelta(minutes=5)).has_syncs
    assert run_maintenance(project.engine, instance=INSTANCE, sync_every=timedelta(minutes=5)).has_syncs
    look = project.do(project_sync.claim, "io", LEASE, instance=INSTANCE)
    assert not run_maintenance(project.engine, instance=INSTANCE, sync_every=timedelta(minutes=5)).has_syncs
    project.do(project_sync.finish, "io", look)
    assert not run_maintenance(project.engine, instance=INSTANCE, sync_every=timedelta(minutes=5)).has_syncs


def test_the_newest_offer_that_fits_a_recipe_counts(project):
    recipe = project.known.config.recipe
    assert project.do(model_registry.weights_for, recipe) is None
    project.do(model_registry.register, recipe.proposal_model, "another/classifier", OTHER_WEIGHTS)
    assert project.do(model_registry.weights_for, recipe) is None
    project.do(model_registry.register, "*", "*", WEIGHTS)
    assert project.do(model_registry.weights_for, recipe) == WEIGHTS
    assert project.do(model_registry.weights_for, replace(recipe, sam=True)) is None
    project.do(model_registry.register, "*", "*", WEIGHTS | {"sam": "5" * 64}, sam="*")
    assert project.do(model_registry.weights_for, replace(recipe, sam=True)) == WEIGHTS | {"sam": "5" * 64}
    assert project.do(model_registry.weights_for, recipe) == WEIGHTS
    project.do(model_registry.register, recipe.proposal_model, recipe.classifier_model, OTHER_WEIGHTS)
    assert project.do(model_registry.weights_for, recipe) == OTHER_WEIGHTS
    project.do(model_registry.register, "*", "*", WEIGHTS)
    assert project.do(model_registry.weights_for, recipe) == WEIGHTS
