"""Overlays and history strips: what they show, and that no picture or word makes them fail."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from car import rle
from car.query_history import query_traces, select_steps, sort_for_display
from car.rendering.history_image import draw_history
from car.rendering.overlay import draw_overlay, interior_point
from car.rendering.palette import contrasting_color, label_color
from car.rendering.text import text_width, truncate_text
from car.segmentation import Mask, QueryScore, Segmentation, Step, StopReason


class SeenStep:
    """A Look as the segmenter gives it."""

    def __init__(self, step):
        self.step = step
        self.cams = np.linspace(0, 1, len(step.queries) * 12, dtype=np.float32).reshape(-1, 3, 4)


def mask_of(label, pixels):
    x, y, width, height = rle.bbox(rle.encode_coco(pixels))
    return Mask(label, 0.9, int(pixels.sum()), (x, y, width, height), rle.encode_coco(pixels))


def segmentation(labels, masks, shape=(40, 60), steps=2):
    """Every label is asked in step 1; those with masks, a dictionary, live on."""
    found = [mask_of(label, pixels) for label, pixels in masks.items()]
    first = tuple(
        QueryScore(label, label, 0.9, label in masks, 5, rival=None if label in masks else labels[0], rival_score=0.8)
        for label in labels
    )
    rest = tuple(query for query in first if query.kept)
    turns = tuple(Step(number, first if number == 1 else rest) for number in range(1, steps + 1))
    return Segmentation(shape[1], shape[0], tuple(found), turns, StopReason.UNCHANGED)


def block(shape=(40, 60)):
    pixels = np.zeros(shape, bool)
    pixels[10:30, 20:40] = True
    return pixels


def grey(shape=(40, 60)):
    return np.full((*shape, 3), 128, np.uint8)


def has_colour(picture, colour):
    return bool((np.asarray(picture) == colour).all(-1).any())


def colourful(shape=(40, 60)):
    return np.broadcast_to(np.array([40, 90, 220], np.uint8), (*shape, 3)).copy()


def test_an_object_keeps_its_colours_and_the_rest_turns_gray():
    picture = np.asarray(draw_overlay(colourful(), segmentation(["cat", "dog"], {"dog": block()}))).astype(int)
    scale = 720 // 60
    (y, x) = np.argwhere(block()).mean(0).astype(int)
    red, green, blue = np.median(picture[y * scale : (y + 3) * scale, x * scale : (x + 3) * scale], axis=(0, 1))
    assert blue > green > red
    assert blue - red > 100
    beside = picture[2 * scale, 2 * scale]
    assert np.ptp(beside) < 30


@pytest.mark.parametrize(
    ("label", "strongest"), [("red star", 0), ("a Green-ish leaf, green", 1), ("blue triangle", 2), ("the blue one", 2)]
)
def test_a_label_that_names_a_colour_has_it(label, strongest):
    for index in range(12):
        assert np.argmax(label_color(index, label)) == strongest


def test_words_within_words_name_no_colour():
    assert label_color(3, "bored redwood") == label_color(3, "thing")


def test_a_note_about_the_models_is_below_the_legend_and_not_cut():
    found = segmentation(["cat", "dog"], {"dog": block()})
    plain, noted = (
        draw_overlay(grey(), found, note) for note in ("", "models: demo, 30 words; unknown to them: 'cat'")
    )
    assert noted.height > plain.height
    assert noted.width == plain.width


def test_the_legend_stands_outside_of_the_picture_in_the_colour_of_the_label():
    picture = draw_overlay(grey(), segmentation(["cat", "dog"], {"dog": block()}))
    beyond = picture.crop((0, 480, picture.width, picture.height))  # this picture is wide: the legend is below
    assert has_colour(beyond, label_color(1, "dog"))
    assert not has_colour(picture, label_color(0, "cat"))


def test_a_label_has_one_colour_whatever_else_survives():
    alone = segmentation(["cat", "dog"], {"dog": block()})
    together = segmentation(["cat", "dog"], {"cat": ~block(), "dog": block()})
    assert has_colour(draw_overlay(grey(), alone), label_color(1, "dog"))
    assert has_colour(draw_overlay(grey(), together), label_color(1, "dog"))


def test_hundreds_of_labels_have_different_colours_and_the_first_ones_very_different():
    colours = [label_color(index, "") for index in range(400)]
    assert len(set(colours)) == 400
    distances = [np.abs(np.subtract(a, b)).sum() for a, b in combinations(colours[:10], 2)]
    assert min(distances) > 60


def test_numbers_can_be_read_on_every_colour():
    for index in range(400):
        colour, ink = label_color(index, ""), contrasting_color(label_color(index, ""))
        assert abs(sum(colour) - sum(ink)) > 130


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 3), (720, 900)])
def test_every_shape_of_picture_is_drawn(shape):
    found = segmentation(["cat", "dog"], {"cat": np.ones(shape, bool)}, shape)
    assert draw_overlay(grey(shape), found).width >= shape[1]
    looks = [SeenStep(step) for step in found.steps]
    assert draw_history(grey(shape), found, looks).height > 0


@pytest.mark.parametrize("word", ["Straße", "強い犬", "кот", "🐱 cat", "قطة", "a" * 200, "[red]x[/red]", "\udcff"])
def test_words_of_every_script_are_written_or_replaced(word):
    found = segmentation([word, "dog"], {word: block()})
    draw_overlay(grey(), found)
    draw_history(grey(), found)


def test_nothing_found_is_a_picture_too():
    nothing = Segmentation(60, 40, (), (), StopReason.NONE_LEFT)
    assert draw_overlay(grey(), nothing).height >= 480
    draw_history(grey(), nothing)


def test_hundreds_of_masks_get_a_legend_of_several_columns():
    labels = [f"word {number}" for number in range(200)]
    masks = {label: np.arange(2400).reshape(40, 60) // 12 == number for number, label in enumerate(labels)}
    picture = draw_overlay(grey(), segmentation(labels, masks))
    assert picture.height < 200 * 26


def test_overlapping_masks_are_all_outlined():
    ring = np.pad(np.ones((30, 50), bool), 5)
    picture = draw_overlay(grey(), segmentation(["out", "in"], {"out": ring, "in": block()}))
    assert has_colour(picture.crop((0, 0, 720, 480)), label_color(0, "out"))
    assert has_colour(picture.crop((0, 0, 720, 480)), label_color(1, "in"))


def test_a_picture_of_another_size_than_its_segmentation_is_refused():
    with pytest.raises(ValueError, match="40, 60"):
        draw_overlay(grey((60, 40)), segmentation(["cat"], {"cat": block()}))


def test_the_heart_of_a_mask_lies_in_it():
    ring = np.ones((40, 40), bool)
    ring[8:32, 8:32] = False
    for mask in (ring, block(), np.eye(30, dtype=bool), np.pad(np.ones((1, 1), bool), ((900, 3), (700, 1)))):
        x, y = interior_point(mask)
        assert mask[y, x]


def test_a_strip_grows_with_heat_maps_and_stops_at_its_rows():
    labels = [f"word {number}" for number in range(50)]
    found = segmentation(labels, {"word 3": block()})
    plain = draw_history(grey(), found)
    warm = draw_history(grey(), found, [SeenStep(step) for step in found.steps])
    assert warm.height > plain.height
    assert plain.height < 1200


def test_long_histories_show_their_first_and_last_steps():
    assert select_steps(3, 8) == (1, 2, 3)
    assert select_steps(20, 8) == (1, 2, 3, 4, 17, 18, 19, 20)
    many = segmentation(["cat", "dog"], {"cat": block()}, steps=20)
    assert draw_history(grey(), many).width < 2000


def test_survivors_come_first_then_those_who_lived_longest():
    queries = [QueryScore(word, word, score, kept=False, area=1) for word, score in (("a", 0.1), ("b", 0.3))]
    late = QueryScore("c", "c", 0.2, kept=True, area=1)
    best = QueryScore("d", "d", 0.2, kept=True, area=1)
    gone = QueryScore("c", "c", 0.05, kept=False, area=1)
    steps = (Step(1, (*queries, late, best)), Step(2, (gone, best)))
    found = Segmentation(4, 4, (), steps, StopReason.UNCHANGED)
    assert [fate.label for fate in sort_for_display(query_traces(found))] == ["d", "c", "b", "a"]


def test_text_is_cut_to_the_width_it_has():
    assert truncate_text("short", 20, 500) == "short"
    cut = truncate_text("a very long label that goes on and on", 20, 100)
    assert cut.endswith("...")
    assert text_width(cut, 20) <= 100


def test_overlays_are_plain_pictures():
    assert isinstance(draw_overlay(grey(), segmentation(["cat"], {"cat": block()})), Image.Image)
