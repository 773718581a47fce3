import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from demo.drawing import BACKGROUNDS, COLOURS, ground
from demo.sample_images import IMAGES, LABELS, SAMPLE_IMAGES, truth_path, write_images
from demo.scenes import (
    SMALLEST_VISIBLE,
    WORDS,
    SceneStyle,
    Split,
    draw_scene,
    generator,
    held_out_scenes,
)

SIZES = [(160, 160), (128, 128), (203, 151), (151, 203), (320, 240)]


def test_the_same_seed_draws_the_same_scene():
    first, again = (draw_scene(generator(Split.TRAIN, 5)) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert (first.words, first.background) == (again.words, again.background)


def test_held_out_scenes_are_not_those_of_training():
    trained = [draw_scene(generator(Split.TRAIN, seed)).image for seed in range(20)]
    held_out = [draw_scene(generator(Split.HELD_OUT, seed)).image for seed in range(20)]
    assert not any(np.array_equal(a, b) for a in trained for b in held_out)


def test_more_held_out_scenes_begin_with_the_fewer():
    few, many = held_out_scenes(2, seed=3), held_out_scenes(4, seed=3)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(few, many, strict=False))


@pytest.mark.parametrize("size", SIZES)
def test_a_scene_has_the_asked_size_and_types(size):
    scene = draw_scene(generator(Split.TRAIN, 1), size=size)
    width, height = size
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert scene.labels.shape == (height, width)
    assert scene.labels.dtype == np.int16
    assert scene.background in BACKGROUNDS


@pytest.mark.parametrize("size", SIZES)
def test_present_words_are_exactly_those_with_visible_pixels(size):
    for seed in range(15):
        scene = draw_scene(generator(Split.TRAIN, seed), size=size)
        counts = np.bincount(scene.labels.ravel(), minlength=len(WORDS) + 1)[1:]
        assert scene.words == tuple(word for word, count in zip(WORDS, counts, strict=True) if count)
        assert all(count == 0 or count >= SMALLEST_VISIBLE for count in counts)


def test_ground_truth_pixels_have_the_colour_of_their_word():
    for seed in range(40):
        scene = draw_scene(generator(Split.TRAIN, seed))
        hue = cv2.cvtColor(scene.image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[..., 0]
        for word in scene.words:
            # Rims are blended with what lies behind, so the inner pixels speak for the word.
            mask = (scene.labels == WORDS.index(word) + 1).astype(np.uint8)
            inner = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0
            middle, spread = COLOURS[word.split()[0]]
            off = (hue[inner] - middle + 180) % 360 - 180
            assert abs(float(np.median(off))) <= spread + 4, word


def test_pixels_outside_objects_are_dull():
    for background in BACKGROUNDS:
        canvas = ground(np.random.default_rng(0), background, 64, 48)
        saturation = 1 - canvas.min(2) / canvas.max(2).clip(1)
        assert float(np.median(saturation)) < 0.6, background


def test_objects_stay_in_the_square_that_the_classifier_sees():
    for seed in range(30):
        labels = draw_scene(generator(Split.TRAIN, seed), size=(320, 240)).labels
        for index in np.unique(labels[labels > 0]):
            columns = np.nonzero((labels == index).any(0))[0]
            assert 20 < columns.mean() < 300


def test_a_scene_may_hold_no_object():
    scene = draw_scene(generator(Split.TRAIN, 0), style=SceneStyle(objects=(0, 0)))
    assert scene.words == ()
    assert not scene.labels.any()


def test_every_word_of_the_vocabulary_occurs():
    seen = {word for seed in range(150) for word in draw_scene(generator(Split.TRAIN, seed)).words}
    assert seen == set(WORDS)


def test_labels_file_holds_the_vocabulary():
    assert LABELS.read_text(encoding="utf-8").splitlines() == list(WORDS)


@pytest.mark.parametrize("picture", SAMPLE_IMAGES, ids=lambda picture: picture.name)
def test_a_stored_picture_is_its_scene(picture):
    scene = picture.scene()
    with Image.open(IMAGES / picture.name) as stored, Image.open(truth_path(picture)) as truth:
        shown = ImageOps.exif_transpose(stored).convert("RGB")
        assert shown.size == truth.size == picture.size
        assert np.array_equal(np.asarray(truth), scene.labels)
        # JPEG, WebP and a palette may shift a pixel by a few grey levels.
        assert np.abs(np.asarray(shown).astype(int) - scene.image).mean() < 6


def test_pictures_are_small_and_of_several_kinds():
    assert sum(path.stat().st_size for path in IMAGES.rglob("*.*")) < 1_500_000
    assert {path.suffix for path in IMAGES.iterdir() if path.is_file()} == {".png", ".jpg", ".webp"}


def test_pictures_are_written_again_with_their_truth(tmp_path):
    images, truth = tmp_path / "images", tmp_path / "truth"
    write_images(images, truth)
    assert sorted(path.name for path in images.iterdir()) == sorted(p.name for p in SAMPLE_IMAGES)
    assert all(truth_path(picture, truth).exists() for picture in SAMPLE_IMAGES)
