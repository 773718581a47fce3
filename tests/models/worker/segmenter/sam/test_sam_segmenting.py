"""SAM in the segmenter: after the CRF, wherever the picture is finished, and only where the recipe asks for it."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
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
from worker.errors import WeightsMissingError
from worker.models.clip_model import ClipModel
from worker.models.model_paths import ModelPaths
from worker.models.weights import load_pair
from worker.pipeline.postprocess_pool import PostprocessPool
from worker.segmenter.requests import SegmentRequest
from worker.segmenter.resizing import Image
from worker.segmenter.sam.ensembling import Region, Regions
from worker.segmenter.sam.network import SamSizes, build
from worker.segmenter.segmenter import Batches, Segmenter

OFF = preset("demo")
ON = replace(OFF, sam=True, iou=0.5)
CPU = torch.device("cpu")


@dataclass
class DrawnRegions:
    """A SAM that knows the truth of some pictures."""

    truth: dict[bytes, np.ndarray] = field(default_factory=dict)
    asked: int = 0

    def __call__(self, image: Image, recipe: Recipe) -> Regions:
        self.asked += 1
        labels = self.truth[image.tobytes()]
        return tuple(Region.of(labels == k, 1.0) for k in np.unique(labels))


@pytest.fixture(scope="module")
def scenes():
    return held_out_scenes(6, seed=4)


@pytest.fixture(scope="module")
def pair():
    return load_pair(WEIGHTS / "proposal", WEIGHTS / "classifier", device=CPU)


@pytest.fixture
def drawn(scenes):
    return DrawnRegions({scene.image.tobytes(): scene.labels for scene in scenes})


@pytest.fixture
def car(pair, drawn):
    return Segmenter(pair.proposal, pair.classifier, sam=drawn)


def segmented(car, scenes, recipe):
    return car.segment([scene.image for scene in scenes], Vocabulary.of(WORDS, mode=recipe.mode), recipe)


def test_masks_become_the_regions_that_match_them(car, scenes):
    found = [mask for result in segmented(car, scenes, ON) for mask in result.masks]
    assert sum(mask.source is MaskSource.SAM for mask in found) > len(found) / 2
    for scene, result in zip(scenes, segmented(car, scenes, ON), strict=True):
        truths = [scene.labels == k for k in np.unique(scene.labels)]
        for mask in result.masks:
            if mask.source is MaskSource.SAM:
                pixels = np.asarray(decode_coco(mask.rle), bool)
                assert any(np.array_equal(pixels, truth) for truth in truths)
                assert mask.area == pixels.sum()


def test_words_scores_and_history_do_not_depend_on_sam(car, scenes):
    for on, off in zip(segmented(car, scenes, ON), segmented(car, scenes, OFF), strict=True):
        assert on.steps == off.steps
        assert [(mask.label, mask.score) for mask in on.masks] == [(mask.label, mask.score) for mask in off.masks]
        assert {mask.source for mask in off.masks} <= {MaskSource.CRF}


def test_the_source_is_in_the_document(car, scenes):
    [result] = segmented(car, scenes[:1], ON)
    assert {mask["source"] for mask in result.to_json()["masks"]} == {str(mask.source) for mask in result.masks}


def test_a_batch_equals_its_singles_bit_for_bit(car, scenes):
    together = segmented(car, scenes, ON)
    assert together == [segmented(car, [scene], ON)[0] for scene in scenes]


def test_other_processes_finish_with_sam_bit_for_bit(car, scenes):
    unfinished = car.recur([scene.image for scene in scenes], Vocabulary.of(WORDS), ON)
    with PostprocessPool(processes=1) as finishers:
        assert [finishers.submit(one).result(60) for one in unfinished] == [one.finish() for one in unfinished]


def test_a_recipe_without_sam_asks_no_sam(car, drawn, scenes):
    segmented(car, scenes[:1], OFF)
    assert drawn.asked == 0


def test_a_picture_is_shown_to_sam_once_whatever_the_number_of_words_and_passes(car, drawn, scenes):
    stuff = replace(ON, stuff=tuple(WORDS[:10]))
    segmented(car, scenes[:2], stuff)
    assert drawn.asked == 2


def test_where_no_word_survives_sam_is_not_asked(car, drawn, scenes):
    [result] = segmented(car, scenes[:1], replace(ON, theta=1.0))
    assert result.masks == ()
    assert drawn.asked == 0


def test_a_recipe_with_sam_needs_one(pair, scenes):
    with pytest.raises(ValueError, match="without a SAM"):
        segmented(Segmenter(pair.proposal, pair.classifier), scenes[:1], ON)


def test_referring_expressions_are_refined_too(car, scenes):
    refer = replace(ON, mode=Mode.REFER, theta=0.0, iou=0.1)
    found = car.segment([scenes[0].image], Vocabulary.of(scenes[0].words, mode=Mode.REFER), refer)[0]
    assert found.masks


def test_sam_is_timed_by_itself(pair, drawn, scenes):
    clock = iter(range(10_000)).__next__
    timed = Segmenter(pair.proposal, pair.classifier, Batches(images=2, crops=4), clock, drawn)
    assert all(result.timings["sam_ms"] > 0 for result in segmented(timed, scenes[:2], ON))
    assert "sam_ms" not in segmented(timed, scenes[:1], OFF)[0].timings


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory):
    """A SAM of random weights."""
    sizes = SamSizes(
        image_size=64, patch=8, width=16, depth=1, heads=2, global_blocks=(0,), prompt_width=16, decoder_heads=2,
        decoder_mlp=16, quality_hidden=16, mask_prompt_width=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    save_file(build(sizes).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes.to_json()))
    return folder


def worker(sam):
    return ClipModel(ModelPaths(WEIGHTS / "proposal", WEIGHTS / "classifier", sam), CPU, Batches(1, 4), 4)


def test_a_worker_loads_its_sam_when_a_recipe_asks_for_it(sam_folder, scenes):
    model = worker(sam_folder)
    assert model.load(OFF).sam is None
    loose = replace(ON, sam_points_per_side=3, sam_pred_iou=0.0, sam_stability=0.0)
    [(key, one)] = model.scheduler().run([SegmentRequest("a", scenes[0].image, Vocabulary.of(WORDS), loose)])
    assert key == "a"
    assert one.regions
    assert model.load(OFF).sam is model.load(ON).sam


def test_recipes_that_differ_in_a_model_share_the_others_on_the_device(sam_folder, tmp_path):
    other = shutil.copytree(sam_folder, tmp_path / "sam")
    model = worker(None)
    model.models = None
    proposal, classifier = str(WEIGHTS / "proposal"), str(WEIGHTS / "classifier")
    one = replace(ON, proposal_model=proposal, classifier_model=classifier, sam_model=str(sam_folder))
    first, plain = model.load(one), model.load(replace(one, sam=False, sam_model="sam-vit-b"))
    second, swapped = (
        model.load(replace(one, sam_model=str(other))),
        model.load(replace(one, classifier_model=proposal)),
    )
    assert first.proposal is second.proposal is plain.proposal
    assert first.classifier is second.classifier is plain.classifier
    assert swapped.classifier is not first.classifier
    assert first.sam is swapped.sam
    assert first.sam is not second.sam
    assert plain.sam is None


def test_a_worker_names_its_sam_in_results_of_recipes_that_use_it(sam_folder):
    model = worker(sam_folder)
    assert set(model.weights_for(OFF)) == {"proposal", "classifier"}
    assert model.weights_for(ON)["sam"] == weights_digest(sam_folder)


def test_a_worker_without_a_sam_says_so_and_serves_other_recipes():
    model = worker(None)
    with pytest.raises(WeightsMissingError, match="no SAM beside the models"):
        model.weights_for(ON)
    assert model.weights_for(OFF)


def test_off_imports_nothing_of_sam():
    """Not even a process that segments, loads its models and finishes pictures as workers do."""
    code = """
import sys
import torch
import cli.segment_runner, worker.pipeline.postprocess_pool
from car.presets import preset
from car.vocabulary import Vocabulary
from demo.scenes import WORDS, held_out_scenes
from demo.clip_models import WEIGHTS
from worker.models.clip_model import load_model
from worker.models.model_paths import ModelPaths
from worker.segmenter.requests import SegmentRequest
model = load_model(ModelPaths(WEIGHTS / "proposal", WEIGHTS / "classifier", None), device="cpu")
asked = SegmentRequest("a", held_out_scenes(1, seed=4)[0].image, Vocabulary.of(WORDS), preset("demo"))
SAM = [f"worker.segmenter.sam.{name}" for name in ("automatic_masks", "decoder", "encoder", "masks", "network")]
[(_, unfinished)] = model.scheduler().run([asked])
assert unfinished.finish().masks
print([name for name in sys.modules if name.startswith(("segment_anything", *SAM))])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout == "[]\n"


def test_the_command_line_turns_sam_on_by_naming_it_or_finds_it_beside_the_models(scenes, sam_folder, tmp_path):
    for role in ("proposal", "classifier"):
        shutil.copytree(WEIGHTS / role, tmp_path / "models" / role)
    shutil.copytree(sam_folder, tmp_path / "models" / "sam")
    Pictures.fromarray(scenes[0].image).save(tmp_path / "one.png")

    def document(*arguments):
        labels = ",".join(scenes[0].words)
        command = ["segment", str(tmp_path / "one.png"), "--labels", labels, "--json", str(tmp_path / "j.json")]
        command += ["--models", str(tmp_path / "models"), "--set", "sam_points_per_side=4"]
        result = CliRunner().invoke(app, [*command, *arguments])
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / "j.json").read_text())

    on, off = document("--sam", str(sam_folder)), document("--sam", "none")
    assert on == document("--set", "sam=on") | {"timings": on["timings"]}
    assert off == document() | {"timings": off["timings"]}
    assert on["weights"]["sam"] == weights_digest(sam_folder)
    assert "sam" not in off["weights"]
    assert on["model_version"] != off["model_version"]
    assert on["recipe"]["sam"] is True
