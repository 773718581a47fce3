"""SAM in the segmenter: masks are refined after the CRF, in any process, and only if the recipe has sam=on."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from safetensors.torch import save_file
from typer.testing import CliRunner

from car.presets import preset
from car.recipe import Mode, Recipe
from car.rle import decode_coco
from car.segmentation import MaskSource
from car.vocabulary import Vocabulary
from car.weights_digest import weights_digest
from cli.main import app
from demo.clip_models import WEIGHTS
from demo.scenes import WORDS, held_out_scenes
from tests.support.regions import region_from_mask
from worker.errors import WeightsMissingError
from worker.models import ModelPaths
from worker.models.clip_model import ClipModel
from worker.models.weights import load_pair
from worker.pipeline.postprocess_pool import PostprocessPool
from worker.segmenter.requests import SegmentRequest
from worker.segmenter.resizing import Image
from worker.segmenter.sam.ensembling import Regions
from worker.segmenter.sam.network import SamSizes, build
from worker.segmenter.segmenter import Batches, Segmenter

OFF = preset("demo")
ON = replace(OFF, sam=True, iou=0.5)
CPU = torch.device("cpu")


@dataclass
class TrueRegions:
    """A SAM that returns the true regions of the scenes."""

    truth: dict[bytes, np.ndarray] = field(default_factory=dict)
    calls: int = 0

    def __call__(self, image: Image, recipe: Recipe) -> Regions:
        self.calls += 1
        labels = self.truth[image.tobytes()]
        return tuple(region_from_mask(labels == k, 1.0) for k in np.unique(labels))


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(6, seed=4)


@pytest.fixture(scope="module")
def pair():
    return load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=CPU)


@pytest.fixture
def true_sam(scenes):
    return TrueRegions({scene.image.tobytes(): scene.labels for scene in scenes})


@pytest.fixture
def car(pair, true_sam):
    return Segmenter(pair.proposal, pair.classifier, sam=true_sam)


def segment(car, scenes, recipe):
    return car.segment([scene.image for scene in scenes], Vocabulary.from_words(WORDS, mode=recipe.mode), recipe)


def test_masks_become_the_regions_that_match_them(car, scenes):
    results = segment(car, scenes, ON)
    sources = [mask.source for result in results for mask in result.masks]
    assert sources.count(MaskSource.SAM) > len(sources) / 2
    for scene, result in zip(scenes, results, strict=True):
        truths = [scene.labels == k for k in np.unique(scene.labels)]
        for mask in result.masks:
            if mask.source is MaskSource.SAM:
                pixels = np.asarray(decode_coco(mask.rle), bool)
                assert any(np.array_equal(pixels, truth) for truth in truths)
                assert mask.area == pixels.sum()


def test_labels_scores_and_history_do_not_depend_on_sam(car, scenes):
    for on, off in zip(segment(car, scenes, ON), segment(car, scenes, OFF), strict=True):
        assert on.steps == off.steps
        assert [(mask.label, mask.score) for mask in on.masks] == [(mask.label, mask.score) for mask in off.masks]
        assert {mask.source for mask in off.masks} <= {MaskSource.CRF}


def test_the_source_is_in_the_json(car, scenes):
    [result] = segment(car, scenes[:1], ON)
    assert {mask["source"] for mask in result.to_json()["masks"]} == {str(mask.source) for mask in result.masks}


def test_a_batch_equals_its_singles_bit_for_bit(car, scenes):
    together = segment(car, scenes, ON)
    assert together == [segment(car, [scene], ON)[0] for scene in scenes]


def test_other_processes_refine_with_sam_bit_for_bit(car, scenes):
    segmentations = car.recur([scene.image for scene in scenes], Vocabulary.from_words(WORDS), ON)
    with PostprocessPool(processes=1) as pool:
        results = [pool.submit(pending).result(60) for pending in segmentations]
    assert results == [pending.finish() for pending in segmentations]


def test_a_recipe_without_sam_does_not_call_sam(car, true_sam, scenes):
    segment(car, scenes[:1], OFF)
    assert true_sam.calls == 0


def test_sam_is_called_once_per_image_for_all_labels_and_passes(car, true_sam, scenes):
    stuff = replace(ON, stuff=tuple(WORDS[:10]))
    segment(car, scenes[:2], stuff)
    assert true_sam.calls == 2


def test_sam_is_not_called_if_no_label_survives(car, true_sam, scenes):
    [result] = segment(car, scenes[:1], replace(ON, theta=1.0))
    assert result.masks == ()
    assert true_sam.calls == 0


def test_a_recipe_with_sam_needs_one(pair, scenes):
    with pytest.raises(ValueError, match="has no SAM"):
        segment(Segmenter(pair.proposal, pair.classifier), scenes[:1], ON)


def test_referring_expressions_are_refined_too(car, scenes):
    refer = replace(ON, mode=Mode.REFER, theta=0.0, iou=0.1)
    assert car.segment([scenes[0].image], Vocabulary.from_words(scenes[0].words, mode=Mode.REFER), refer)[0].masks


def test_sam_has_a_timing_of_its_own(pair, true_sam, scenes):
    clock = iter(range(10_000)).__next__
    timed = Segmenter(pair.proposal, pair.classifier, Batches(images=2, crops=4), clock, true_sam)
    assert all(result.timings["sam_ms"] > 0 for result in segment(timed, scenes[:2], ON))
    assert "sam_ms" not in segment(timed, scenes[:1], OFF)[0].timings


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory):
    """The folder of a SAM with random weights."""
    sizes = SamSizes(
        image_size=64, patch=8, width=16, depth=1, heads=2, global_blocks=(0,), prompt_width=16, decoder_heads=2,
        decoder_mlp=16, quality_hidden=16, mask_prompt_width=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    save_file(build(sizes).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes.to_json()))
    return folder


def load_worker_model(sam):
    return ClipModel(ModelPaths(WEIGHTS / "proposal", WEIGHTS / "classifier", sam), CPU, Batches(1, 4), 4)


def test_a_worker_loads_its_sam_for_the_first_recipe_that_needs_it(sam_folder, scenes):
    model = load_worker_model(sam_folder)
    assert model.load(OFF).sam is None
    loose = replace(ON, sam_points_per_side=3, sam_pred_iou=0.0, sam_stability=0.0)
    [(key, pending)] = model.scheduler().run(
        [SegmentRequest("a", scenes[0].image, Vocabulary.from_words(WORDS), loose)]
    )
    assert key == "a"
    assert pending.regions
    assert model.load(OFF).sam is model.load(ON).sam


def test_recipes_that_differ_in_a_model_share_the_others_on_the_device(sam_folder, tmp_path):
    other = shutil.copytree(sam_folder, tmp_path / "sam")
    model = load_worker_model(None)
    model.models = None
    proposal, classifier = str(WEIGHTS / "proposal"), str(WEIGHTS / "classifier")
    recipe = replace(ON, proposal_model=proposal, classifier_model=classifier, sam_model=str(sam_folder))
    first, plain = model.load(recipe), model.load(replace(recipe, sam=False, sam_model="sam-vit-b"))
    second = model.load(replace(recipe, sam_model=str(other)))
    swapped = model.load(replace(recipe, classifier_model=proposal))
    assert first.proposal is second.proposal is plain.proposal
    assert first.classifier is second.classifier is plain.classifier
    assert swapped.classifier is not first.classifier
    assert first.sam is swapped.sam
    assert first.sam is not second.sam
    assert plain.sam is None


def test_weights_of_a_recipe_include_its_sam(sam_folder):
    model = load_worker_model(sam_folder)
    assert set(model.weights_for(OFF)) == {"proposal", "classifier"}
    assert model.weights_for(ON)["sam"] == weights_digest(sam_folder)


def test_a_worker_without_a_sam_rejects_recipes_with_sam_only():
    model = load_worker_model(None)
    with pytest.raises(WeightsMissingError, match="the models folder has no SAM"):
        model.weights_for(ON)
    assert model.weights_for(OFF)


def test_off_imports_nothing_of_sam():
    """Not even a process that loads its models, segments and postprocesses like a worker."""
    code = """
import sys
import torch
import cli.segment_runner, worker.pipeline.postprocess_pool
from car.presets import preset
from car.vocabulary import Vocabulary
from demo.scenes import WORDS, held_out_scenes
from demo.clip_models import WEIGHTS
from worker.models.clip_model import load_model
from worker.models import ModelPaths
from worker.segmenter.requests import SegmentRequest
model = load_model(ModelPaths(WEIGHTS / "proposal", WEIGHTS / "classifier", None), device="cpu")
WORDS_ = Vocabulary.from_words(WORDS)
request = SegmentRequest("a", held_out_scenes(1, seed=4)[0].image, WORDS_, preset("demo"))
SAM = [f"worker.segmenter.sam.{name}" for name in ("automatic_masks", "decoder", "encoder", "masks", "network")]
[(_, pending)] = model.scheduler().run([request])
assert pending.finish().masks
print([name for name in sys.modules if name.startswith(("segment_anything", *SAM))])
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert output.stdout == "[]\n"


def test_the_command_line_uses_the_named_sam_or_the_one_beside_the_models(scenes, sam_folder, tmp_path):
    for role in ("proposal", "classifier"):
        shutil.copytree(WEIGHTS / role, tmp_path / "models" / role)
    shutil.copytree(sam_folder, tmp_path / "models" / "sam")
    PilImage.fromarray(scenes[0].image).save(tmp_path / "one.png")

    def run(*arguments):
        labels = ",".join(scenes[0].words)
        command = ["segment", str(tmp_path / "one.png"), "--labels", labels, "--json", str(tmp_path / "j.json")]
        command += ["--models", str(tmp_path / "models"), "--set", "sam_points_per_side=4"]
        result = CliRunner().invoke(app, [*command, *arguments])
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / "j.json").read_text())

    on, off = run("--sam", str(sam_folder)), run("--sam", "none")
    assert on == run("--set", "sam=on") | {name: on[name] for name in ("timings", "models")}
    assert off == run() | {"timings": off["timings"]}
    assert on["weights"]["sam"] == weights_digest(sam_folder)
    assert "sam" not in off["weights"]
    assert on["model_version"] != off["model_version"]
    assert on["recipe"]["sam"] is True
