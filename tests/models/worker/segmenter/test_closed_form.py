"""The closed form is the same arithmetic as per-query autograd and the official scheme, for counted, smaller work."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from car.presets import preset
from car.text_data import BACKGROUNDS, CAM_TEMPLATE, VOC_QUERIES
from car.vocabulary import Vocabulary
from evaluation.random_models import TINY_F, TINY_G, VIT_B16, encoder
from evaluation.reference import autograd_cams
from evaluation.reference.official_scheme import OfficialScheme, Unit, counts
from evaluation.synthetic_images import tiled_image
from worker.segmenter import proposals
from worker.segmenter.segmenter import Segmenter

QUERIES = VOC_QUERIES[:10]
SOFT = 10.0
"""exp(logit_scale) with which no text of a tiny model is so improbable that the reference's p_i underflows."""
THREE_STEPS = [(9, 0.13), (6, 0.08), (3, 0.1), (4, 0.08)]
"""Seeds and thetas with which tiny random models take three steps, no score within 0.003 of theta."""


@pytest.fixture(autouse=True)
def _one_thread():
    """Small matrices lose more to waiting threads than they gain from them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def both_sides(f, image):
    """The reference's side, and ours, from the same tokens."""
    scheme = OfficialScheme(f, f, image, Vocabulary.of(QUERIES), preset("voc"))
    block, _, grid = scheme.encode_image()
    return block, proposals.encode_tokens(f, block.tokens, None, grid)


def texts(f):
    return f.texts(QUERIES), f.texts([CAM_TEMPLATE.format(word) for word in BACKGROUNDS["shipped"]])


def closed_form(f, encoded, queries, background):
    """CAMs as the recurrence asks for them."""
    centre = torch.cat([queries, background]).mean(0)
    logits = f.scale * background @ encoded.z
    m_bg = encoded.maps((logits.softmax(0) @ (background - centre))[None])[0]
    m = encoded.maps(queries - centre)
    return proposals.gradcams(m, f.scale * queries @ encoded.z, m_bg, torch.logsumexp(logits, 0))


def gradients(f, encoded, queries, background):
    """w_i = s p_i (g_i - sum_j p_j g_j), and s p_i."""
    everything = torch.cat([queries, background])
    p = (f.scale * everything @ encoded.z).softmax(0)
    g = encoded._gradients(everything - everything.mean(0))
    factor = f.scale * p[: len(queries), None]
    return factor * (g[: len(queries)] - p @ g)


@pytest.mark.parametrize(
    ("shape", "size", "gain", "scale", "tolerance"),
    [
        pytest.param(VIT_B16, (384, 512), 1.0, 100.0, 1e-4, id="ViT-B/16 at 512x384"),
        pytest.param(TINY_F, (96, 128), 4.0, SOFT, 1e-5, id="tiny"),
    ],
)
def test_cams_and_gradients_equal_per_query_autograd(shape, size, gain, scale, tolerance):
    f = encoder(shape, seed=4, gain=gain, scale=scale)
    block, encoded = both_sides(f, tiled_image(*size))
    queries, background = texts(f)
    expected = autograd_cams.cams(block, queries.double(), background.double())
    assert block.passes == len(queries), "no CAM is zero everywhere, so the fallback plays no part"
    assert float(expected.amax(1).min()) > 0.99
    torch.testing.assert_close(closed_form(f, encoded, queries, background), expected, atol=tolerance, rtol=0)
    assert encoded.products == len(queries) + 1

    ours = gradients(f, encoded, queries, background)
    everything = torch.cat([queries, background]).double()
    theirs = torch.stack([block.cam(i, everything).weights for i in range(len(queries))])
    assert float((ours - theirs).norm(dim=1).div(theirs.norm(dim=1)).max()) < tolerance


def test_closed_form_in_double_precision_is_equal_to_rounding_of_the_embedding():
    f = encoder(TINY_F, seed=4, gain=4.0, scale=SOFT, dtype=torch.float64)
    block, encoded = both_sides(f, tiled_image(96, 128))
    queries, background = texts(f)
    expected = autograd_cams.cams(block, queries.double(), background.double()).float()
    torch.testing.assert_close(closed_form(f, encoded, queries, background), expected, atol=5e-6, rtol=0)


def test_a_cam_that_the_background_drowns_is_taken_without_it():
    f = encoder(TINY_F, seed=5, gain=4.0)
    block, encoded = both_sides(f, tiled_image(32, 48))
    # M is linear in the text, so some direction lowers it everywhere; what goes along z changes logits alone.
    ramp = 1 + torch.arange(6.0)[:, None]
    downhill = torch.linalg.lstsq(encoded.maps(torch.eye(f.width)).T, -ramp).solution[:, 0]
    downhill -= downhill @ encoded.z * encoded.z
    sea = f.texts(["sea"])
    queries = torch.cat([sea + 0.5 * downhill, sea + downhill])
    background = sea + 0.2 * encoded.z

    expected = autograd_cams.cams(block, queries.double(), background.double())
    assert block.passes == 4, "both queries needed the fallback"
    torch.testing.assert_close(expected[0], (torch.arange(6.0) / 5), atol=1e-3, rtol=0)
    assert not expected[1].any(), "what comes out of the fallback stands"
    torch.testing.assert_close(closed_form(f, encoded, queries, background), expected, atol=1e-4, rtol=0)


def test_beyond_as_many_texts_as_dimensions_the_jacobian_gives_the_same_maps():
    f = encoder(TINY_F, seed=6, gain=4.0)
    block, encoded = both_sides(f, tiled_image(96, 128))
    many = f.texts([f"thing number {n}" for n in range(f.width + 12)])
    expected = torch.cat([encoded.maps(row[None]) for row in many])
    products = encoded.products
    by_jacobian = proposals.encode_tokens(f, block.tokens, None, encoded.grid)
    torch.testing.assert_close(by_jacobian.maps(many), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert products == len(many)
    assert by_jacobian.products == f.width
    by_jacobian.maps(f.texts(["a word that comes later"]))
    assert by_jacobian.products == f.width, "a picture that was encoded once is asked about new words for nothing"


def test_one_query_without_background_has_no_cam():
    f = encoder(TINY_F, seed=7, gain=4.0)
    block, encoded = both_sides(f, tiled_image(96, 128))
    query, none = f.texts(["cat"]), torch.zeros(0, f.width)
    assert not autograd_cams.cams(block, query, none).any()
    assert not closed_form(f, encoded, query, none).any()


@cache
def run_both(seed, theta, vocabulary):
    f, g = encoder(TINY_F, seed=seed, scale=30, gain=4), encoder(TINY_G, seed=seed + 100, scale=30, gain=4)
    image, looks = tiled_image(90, 130, seed), []
    recipe = replace(preset("voc"), theta=theta)
    ours = Segmenter(f, g).segment([image], vocabulary, recipe, observe=lambda _, look: looks.append(look))[0]
    scheme = OfficialScheme(f, g, image, vocabulary, recipe)
    return ours, looks, scheme, scheme.run()


@pytest.mark.parametrize(("seed", "theta"), THREE_STEPS)
def test_the_official_scheme_scores_and_keeps_the_same_in_every_step(seed, theta):
    _, looks, _, steps = run_both(seed, theta, Vocabulary.of(QUERIES))
    assert len(steps) >= 3
    assert [[query.text for query in look.step.queries] for look in looks] == [step.queries for step in steps]
    for look, step in zip(looks, steps, strict=True):
        assert [k for k, query in enumerate(look.step.queries) if query.kept] == step.kept
        np.testing.assert_allclose(look.cams, step.cams, atol=5e-4, rtol=0)
        # A CAM that differs in its last bit may carry a pixel over eta, which a tiny model's crop shows.
        np.testing.assert_allclose([query.score for query in look.step.queries], step.scores, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("seed", "theta"), THREE_STEPS)
def test_work_is_counted_and_is_a_fifteenth_or_less(seed, theta):
    vocabulary = Vocabulary.of(QUERIES)
    ours, looks, scheme, steps = run_both(seed, theta, vocabulary)
    sizes = [len(step.queries) for step in steps]
    assert scheme.done == counts(sizes, templates=15, background=23)
    assert scheme.done[Unit.CROP] == 15 * sum(sizes)

    survivors = len(looks[1].step.queries)
    # One product a query, one for all background; survivors once more, as their text changes after step 1.
    assert ours.work.vector_jacobian_products == len(QUERIES) + 1 + survivors
    assert ours.work.proposal_forwards == 1
    assert ours.work.crops_encoded + ours.work.crops_reused == sum(size for size in sizes if size > 1)
    assert scheme.done[Unit.CROP] / ours.work.crops_encoded >= 15


def test_a_longer_recurrence_takes_no_further_products():
    vocabulary = Vocabulary.of(QUERIES)
    runs = [run_both(seed, theta, vocabulary)[:2] for seed, theta in THREE_STEPS]
    for ours, looks in runs:
        assert len(looks) > 2
        assert ours.work.vector_jacobian_products == len(QUERIES) + 1 + len(looks[1].step.queries)


@pytest.mark.parametrize("shape", [TINY_F, TINY_G])
def test_texts_embed_the_same_without_the_positions_behind_their_end(shape):
    f = encoder(shape, seed=8, gain=4.0)
    words = ["cat", "person with clothes,people,human", "a very long text " * 12]
    for some in (words[:1], words[:2], words):
        torch.testing.assert_close(f.texts(some), f.texts(some, context=77), atol=1e-6, rtol=0)
