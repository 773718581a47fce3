"""The closed form computes the same as per-query autograd and the official scheme, with less work, which is counted."""

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
    """Threads slow small matrices down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def encode_both(f, image):
    """Encode an image with the reference and with ours, from the same tokens."""
    scheme = OfficialScheme(f, f, image, Vocabulary.from_words(QUERIES), preset("voc"))
    block, _, grid = scheme.encode_image()
    return block, proposals.encode_tokens(f, block.tokens, None, grid)


def texts(f):
    return f.texts(QUERIES), f.texts([CAM_TEMPLATE.format(word) for word in BACKGROUNDS["shipped"]])


def closed_form(f, encoded, queries, background):
    """CAMs as the recurrence computes them."""
    queries, background = encoded.exact(queries), encoded.exact(background)
    centre = torch.cat([queries, background]).mean(0)
    logits = f.scale * background @ encoded.z
    m_bg = encoded.maps((logits.softmax(0) @ (background - centre))[None])[0]
    m = encoded.maps(queries - centre)
    return proposals.gradcams(m, f.scale * queries @ encoded.z, m_bg, torch.logsumexp(logits, 0)).float()


def gradients(f, encoded, queries, background):
    """w_i = s p_i (g_i - sum_j p_j g_j), and s p_i."""
    queries, background = encoded.exact(queries), encoded.exact(background)
    texts = torch.cat([queries, background])
    p = (f.scale * texts @ encoded.z).softmax(0)
    g = encoded._gradients(texts - texts.mean(0))
    factor = f.scale * p[: len(queries), None]
    return factor * (g[: len(queries)] - p @ g)


@pytest.mark.parametrize(
    ("shape", "size", "gain", "scale", "tolerance"),
    [
        pytest.param(VIT_B16, (384, 512), 1.0, 100.0, 1e-4, id="ViT-B/16 at 512x384", marks=pytest.mark.slow),
        pytest.param(TINY_F, (96, 128), 4.0, SOFT, 1e-5, id="tiny"),
    ],
)
def test_cams_and_gradients_equal_per_query_autograd(shape, size, gain, scale, tolerance):
    f = encoder(shape, seed=4, gain=gain, scale=scale)
    block, encoded = encode_both(f, tiled_image(*size))
    queries, background = texts(f)
    expected = autograd_cams.cams(block, queries.double(), background.double())
    assert block.passes == len(queries), "no CAM is zero everywhere, so the fallback is not used"
    assert float(expected.amax(1).min()) > 0.99
    torch.testing.assert_close(closed_form(f, encoded, queries, background), expected.float(), atol=tolerance, rtol=0)
    assert encoded.products == len(queries) + 1

    actual = gradients(f, encoded, queries, background)
    doubles = torch.cat([queries, background]).double()
    weights = torch.stack([block.cam(i, doubles).weights for i in range(len(queries))])
    assert float((actual - weights).norm(dim=1).div(weights.norm(dim=1)).max()) < tolerance


def test_the_closed_form_in_double_precision_is_exact_up_to_rounding_of_the_embedding():
    f = encoder(TINY_F, seed=4, gain=4.0, scale=SOFT, dtype=torch.float64)
    block, encoded = encode_both(f, tiled_image(96, 128))
    queries, background = texts(f)
    expected = autograd_cams.cams(block, queries.double(), background.double()).float()
    torch.testing.assert_close(closed_form(f, encoded, queries, background), expected, atol=5e-6, rtol=0)


def test_a_cam_that_is_zero_everywhere_is_computed_without_the_background():
    f = encoder(TINY_F, seed=5, gain=4.0)
    block, encoded = encode_both(f, tiled_image(32, 48))
    # M is linear in the text, so some direction lowers it everywhere; a component along z changes logits alone.
    ramp = 1 + torch.arange(6.0, dtype=torch.float64)[:, None]
    downhill = torch.linalg.lstsq(encoded.maps(torch.eye(f.width)).T, -ramp).solution[:, 0]
    downhill -= downhill @ encoded.z * encoded.z
    sea = f.texts(["sea"])
    queries = torch.cat([sea + 0.5 * downhill, sea + downhill])
    background = sea + 0.2 * encoded.z

    expected = autograd_cams.cams(block, queries.double(), background.double())
    assert block.passes == 4, "both queries needed the fallback"
    torch.testing.assert_close(expected[0].float(), (torch.arange(6.0) / 5), atol=1e-3, rtol=0)
    assert not expected[1].any(), "the fallback is not repeated"
    torch.testing.assert_close(closed_form(f, encoded, queries, background), expected.float(), atol=1e-4, rtol=0)


def test_more_texts_than_dimensions_use_the_jacobian_with_the_same_maps():
    f = encoder(TINY_F, seed=6, gain=4.0)
    block, encoded = encode_both(f, tiled_image(96, 128))
    embeddings = f.texts([f"thing number {n}" for n in range(f.width + 12)])
    expected = torch.cat([encoded.maps(row[None]) for row in embeddings])
    products = encoded.products
    by_jacobian = proposals.encode_tokens(f, block.tokens, None, encoded.grid)
    torch.testing.assert_close(by_jacobian.maps(embeddings), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert products == len(embeddings)
    assert by_jacobian.products == f.width
    by_jacobian.maps(f.texts(["a word that comes later"]))
    assert by_jacobian.products == f.width, "the cached Jacobian serves new texts without further products"


def test_one_query_without_background_has_no_cam():
    f = encoder(TINY_F, seed=7, gain=4.0)
    block, encoded = encode_both(f, tiled_image(96, 128))
    query, no_texts = f.texts(["cat"]), torch.zeros(0, f.width)
    assert not autograd_cams.cams(block, query, no_texts).any()
    assert not closed_form(f, encoded, query, no_texts).any()


@cache
def run_both(seed, theta, vocabulary):
    f, g = encoder(TINY_F, seed=seed, scale=30, gain=4), encoder(TINY_G, seed=seed + 100, scale=30, gain=4)
    image, traces = tiled_image(90, 130, seed), []
    recipe = replace(preset("voc"), theta=theta)
    result = Segmenter(f, g).segment([image], vocabulary, recipe, observe=lambda _, trace: traces.append(trace))[0]
    scheme = OfficialScheme(f, g, image, vocabulary, recipe)
    return result, traces, scheme, scheme.run()


@pytest.mark.parametrize(("seed", "theta"), THREE_STEPS)
def test_the_official_scheme_scores_and_keeps_the_same_in_every_step(seed, theta):
    _, traces, _, steps = run_both(seed, theta, Vocabulary.from_words(QUERIES))
    assert len(steps) >= 3
    assert [[query.text for query in trace.step.queries] for trace in traces] == [step.queries for step in steps]
    for trace, step in zip(traces, steps, strict=True):
        assert [k for k, query in enumerate(trace.step.queries) if query.kept] == step.kept
        np.testing.assert_allclose(trace.cams, step.cams, atol=5e-4, rtol=0)
        # A CAM that differs in its last bit may move a pixel over eta, which changes a tiny model's crop.
        np.testing.assert_allclose([query.score for query in trace.step.queries], step.scores, atol=2e-3, rtol=0)


@pytest.mark.parametrize("seeds", [range(230, 238), pytest.param(range(200, 230), marks=pytest.mark.slow)])
def test_random_models_score_as_the_official_scheme_unless_a_pixel_lies_at_eta(seeds):
    equal = total = 0
    for seed in seeds:
        _, traces, scheme, steps = run_both(seed, 0.09, Vocabulary.from_words(QUERIES))
        assert [[query.text for query in trace.step.queries] for trace in traces] == [step.queries for step in steps]
        for trace, step in zip(traces, steps, strict=True):
            assert [k for k, query in enumerate(trace.step.queries) if query.kept] == step.kept
            crops = zip(scheme.prompted_crops(trace.cams), scheme.prompted_crops(step.cams), strict=True)
            same = np.array([np.array_equal(ours, theirs) for ours, theirs in crops])
            differences = np.abs([query.score for query in trace.step.queries] - np.array(step.scores))
            assert differences[same].max(initial=0) < 1e-4
            assert differences[~same].max(initial=0) < 2e-3
            equal, total = equal + same.sum(), total + len(same)
    assert equal / total > 0.9


@pytest.mark.parametrize(("seed", "theta"), THREE_STEPS)
def test_the_work_is_a_fifteenth_or_less_of_the_official_scheme(seed, theta):
    vocabulary = Vocabulary.from_words(QUERIES)
    result, traces, scheme, steps = run_both(seed, theta, vocabulary)
    sizes = [len(step.queries) for step in steps]
    assert scheme.done == counts(sizes, templates=15, background=23)
    assert scheme.done[Unit.CROP] == 15 * sum(sizes)

    survivors = len(traces[1].step.queries)
    # One product per query and one for all background; survivors again, because their text changes after step 1.
    assert result.work.vector_jacobian_products == len(QUERIES) + 1 + survivors
    assert result.work.proposal_forwards == 1
    assert result.work.crops_encoded + result.work.crops_reused == sum(size for size in sizes if size > 1)
    assert scheme.done[Unit.CROP] / result.work.crops_encoded >= 15


def test_a_longer_recurrence_needs_no_further_products():
    vocabulary = Vocabulary.from_words(QUERIES)
    runs = [run_both(seed, theta, vocabulary)[:2] for seed, theta in THREE_STEPS]
    for result, traces in runs:
        assert len(traces) > 2
        assert result.work.vector_jacobian_products == len(QUERIES) + 1 + len(traces[1].step.queries)


@pytest.mark.parametrize("shape", [TINY_F, TINY_G])
def test_positions_behind_the_end_of_a_text_change_no_embedding(shape):
    f = encoder(shape, seed=8, gain=4.0)
    words = ["cat", "person with clothes,people,human", "a very long text " * 12]
    for count in (1, 2, 3):
        expected = f.texts(words[:count], context=77)
        torch.testing.assert_close(f.texts(words[:count]), expected, atol=1e-6, rtol=0)
