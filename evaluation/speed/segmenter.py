"""The segmenter's time beside two plainer schemes of the same arithmetic, in alternation in one process.

Full-size architectures with random weights stand in for CLIP, because speed depends on shapes alone. Scores of random
weights mean nothing, so theta is chosen from the scores of step 1: it keeps exactly as many queries as asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch
from transformers import CLIPModel

from car.presets import preset
from car.recipe import Recipe
from car.segmentation import Segmentation
from car.text_data import VOC_QUERIES
from car.vocabulary import Vocabulary
from evaluation.random_models import WordTokenizer, clip
from evaluation.reference.autograd_cams import cams as autograd_cams
from evaluation.reference.official_encoder import OfficialEncoder
from evaluation.reference.official_scheme import OfficialScheme
from evaluation.speed.op_counter import OpCounter
from evaluation.speed.roofline import Peaks, measure_peaks
from evaluation.speed.segmenter_figures import Comparison, Setting
from evaluation.speed.throughput import Throughput, measure_throughput
from evaluation.stopwatch import clock_of
from evaluation.synthetic_images import tiled_image
from worker.segmenter import proposals
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.postprocess import PendingSegmentation
from worker.segmenter.recurrence import StepTrace
from worker.segmenter.requests import SegmentRequest
from worker.segmenter.resizing import Image
from worker.segmenter.segmenter import Segmenter

Postprocess = Callable[[PendingSegmentation], Future[Segmentation]]
"""Such as worker.pipeline.postprocess_pool.Finishers.submit."""


@dataclass(frozen=True)
class Models:
    """f and g with random weights, in our precision and in the official code's."""

    ours: tuple[Encoder, Encoder]
    official: tuple[OfficialEncoder, OfficialEncoder]

    @classmethod
    def of(cls, setting: Setting) -> "Models":
        official = _clips(setting, setting.official_dtype)
        ours = official if setting.dtype == setting.official_dtype else _clips(setting, setting.dtype)
        if setting.blocks_dtype != setting.dtype:
            ours = ours[0], _clips(setting, setting.dtype)[1]
        f, g = (Encoder(clip, WordTokenizer()) for clip in ours)
        if setting.blocks_dtype != setting.dtype:
            g.round_blocks(setting.blocks_dtype)
        official_f, official_g = (OfficialEncoder(clip, WordTokenizer()) for clip in official)
        return cls((f, g), (official_f, official_g))


def _clips(setting: Setting, dtype: torch.dtype) -> tuple[CLIPModel, CLIPModel]:
    f, g = (
        clip(shape, seed=seed, gain=setting.gain, scale=setting.scale, dtype=dtype, device=setting.torch_device)
        for seed, shape in enumerate(setting.shapes)
    )
    return f, g


def peaks_of(setting: Setting, *, scale: float = 1.0) -> dict[torch.dtype, Peaks]:
    """The machine's peaks in every precision that our side computes in."""
    return {
        dtype: measure_peaks(setting.torch_device, dtype, scale=scale)
        for dtype in dict.fromkeys((setting.dtype, setting.blocks_dtype))
    }


def compare(
    setting: Setting,
    progress: Callable[[str], None] = lambda _: None,
    *,
    models: Models | None = None,
    peaks: Mapping[torch.dtype, Peaks] | None = None,
    postprocess: Postprocess | None = None,
) -> Comparison:
    """Measure our segmenter, per-query autograd and the official scheme in alternation in this process.

    `progress` is told the name of each phase. `models` and `peaks` may come from an earlier setting of this run.
    `postprocess` computes the masks of the throughput run (None: in this thread, one image after the other).
    """
    vocabulary = Vocabulary.of(VOC_QUERIES[: setting.queries])
    result = Comparison(setting, vocabulary)
    progress("building random models")
    models = models or Models.of(setting)
    clock = clock_of(setting.torch_device)
    image = tiled_image(setting.height, setting.width)
    ours = Segmenter(*models.ours, setting.batches, clock)
    progress("choosing theta after step 1")
    recipe = _choose_recipe(ours, image, result)
    progress("counting operations")
    with OpCounter() as counter:
        ours.segment([image] * setting.images_together, vocabulary, recipe)
    result.counts = counter.counts
    for _ in range(setting.turns):
        progress("our segmenter")
        _measure_ours(ours, image, recipe, result)
        scheme = OfficialScheme(*models.official, image, vocabulary, recipe, clock)
        progress("CAMs by autograd")
        _measure_cams(scheme, ours.proposal, result)
        progress("units of the official scheme")
        _measure_units(scheme, result)
    progress("peaks of the machine")
    result.peaks = peaks or peaks_of(setting)
    if setting.stream:
        progress("throughput")
        result.throughput = _measure_throughput(models, image, recipe, result, postprocess or _postprocess_here)
    if setting.full:
        progress("the official scheme to its end")
        scheme = OfficialScheme(*models.official, image, vocabulary, recipe, clock)
        start = clock()
        result.full_steps = scheme.run()
        result.official_full_s = clock() - start
    return result


def _choose_recipe(ours: Segmenter, image: Image, result: Comparison) -> Recipe:
    """The recipe whose theta lies between the scores of step 1 that survive and those that do not. Embeds the texts and
    warms everything up.
    """
    setting, traces = result.setting, list[StepTrace]()
    one_step = replace(preset("voc"), max_steps=1)
    first = ours.segment([image], result.vocabulary, one_step, observe=lambda _, trace: traces.append(trace))[0]
    result.texts_s = first.timings["text_ms"] / 1000
    result.text_tokens = _text_tokens(ours, result.vocabulary)
    scores = [*sorted((query.score for query in traces[0].step.queries), reverse=True), 0.0]
    theta = (scores[setting.survivors - 1] + scores[setting.survivors]) / 2
    return replace(one_step, theta=theta, max_steps=setting.steps)


def _text_tokens(ours: Segmenter, vocabulary: Vocabulary) -> tuple[int, int]:
    """Tokens of all texts that worker.segmenter.clip.texts embeds, start and end included: f's and g's."""
    prompts = [prompt for label in vocabulary.labels for prompt in label.prompts]
    cam_texts = [vocabulary.cam_template.format(word) for word in [*prompts, *vocabulary.background]]
    classified = [template.format(prompt) for template in vocabulary.classifier_templates for prompt in prompts]

    def tokens(encoder: Encoder, texts: Sequence[str]) -> int:
        rows = encoder.tokens(texts)
        return int((rows != rows[:, -1:]).sum()) + len(rows)  # padded with the end token, which counts once

    return tokens(ours.proposal, prompts + cam_texts), tokens(ours.classifier, classified)


def _measure_throughput(
    models: Models, image: Image, recipe: Recipe, result: Comparison, postprocess: Postprocess
) -> Throughput:
    """The same image over and over: each run asks for the same work and keeps nothing for the next."""
    segmenter, setting = Segmenter(*models.ours, result.setting.batches), result.setting

    def workload(images: int) -> None:
        requests = (SegmentRequest(number, image, result.vocabulary, recipe) for number in range(images))
        pending = []
        for _, found in segmenter.scheduler().run(requests):
            if isinstance(found, Exception):
                raise found
            if found is not None:
                pending.append(postprocess(found))
        for future in pending:
            future.result()

    return measure_throughput(workload, setting.stream, setting.torch_device, warm_up=setting.images_together)


def _postprocess_here(unfinished: PendingSegmentation) -> Future[Segmentation]:
    future: Future[Segmentation] = Future()
    future.set_result(unfinished.finish())
    return future


def _measure_ours(ours: Segmenter, image: Image, recipe: Recipe, result: Comparison) -> None:
    traces, together = list[StepTrace](), result.setting.images_together

    def observe(index: int, trace: StepTrace) -> None:
        if index == 0:
            traces.append(trace)

    done = ours.segment([image] * together, result.vocabulary, recipe, observe=observe)
    names = [name for name in done[0].timings if name != "text_ms"]
    stages = {
        name.removesuffix("_ms"): sum(one.timings.get(name, 0.0) for one in done) / together / 1000 for name in names
    }
    if not result.stages or sum(stages.values()) < result.ours_s:
        result.stages = stages
    result.work, result.traces = done[0].work, traces
    result.sizes = [len(trace.step.queries) for trace in traces]


def _measure_cams(scheme: OfficialScheme, f: Encoder, result: Comparison) -> None:
    """Time the CAMs of all steps from the last block's input on, in closed form and by autograd, of the same texts."""
    block, _, grid = scheme.encode_image()
    vocabulary = result.vocabulary
    labels = [label.prompts[0] for label in vocabulary.labels]
    background = f.texts([vocabulary.cam_template.format(word) for word in vocabulary.background])
    raw, templated = f.texts(labels), f.texts([vocabulary.cam_template.format(label) for label in labels])
    position = {label: i for i, label in enumerate(labels)}
    alive = [[position[query.label] for query in trace.step.queries] for trace in result.traces]
    queries_of_steps = [(templated if step else raw)[rows] for step, rows in enumerate(alive)]

    def closed_form() -> None:
        encoded = proposals.encode_tokens(f, block.tokens.to(f.dtype), None, grid)
        logits = f.scale * background @ encoded.z
        m_bg = encoded.maps(logits.softmax(0) @ background[None])[0]
        maps = {True: encoded.maps(raw), False: encoded.maps(templated[alive[1]]) if len(alive) > 1 else raw}
        for step, texts in enumerate(queries_of_steps):
            rows = alive[0] if step == 0 else [alive[1].index(i) for i in alive[step]]
            proposals.gradcams(maps[step == 0][rows], f.scale * texts @ encoded.z, m_bg, torch.logsumexp(logits, 0))

    def by_autograd() -> None:
        for texts in queries_of_steps:
            autograd_cams(block, texts, background)

    result.ours_cams_s = _least(result.ours_cams_s, scheme.seconds(closed_form))
    result.autograd_cams_s = _least(result.autograd_cams_s, scheme.seconds(by_autograd))


def _measure_units(scheme: OfficialScheme, result: Comparison) -> None:
    """Time each unit in the batch size of the official scheme: singly, or one template's texts and crops of step 1."""
    scheme.done.clear()
    scheme.spent.clear()
    words = [label.prompts[0] for label in result.vocabulary.labels]
    block, attention, grid = scheme.encode_image()
    texts = scheme.proposal_texts(words)
    for index in range(min(3, len(words))):
        cam, own = scheme.query_cam(block, index, texts, scheme.proposal_texts(result.vocabulary.background[:1]))
        scheme.refine(cam, own, attention, grid)
    crops = scheme.prompted_crops(result.traces[0].cams)
    scheme.classifier_texts([result.vocabulary.classifier_templates[0].format(word) for word in words])
    scheme.encode_crops(crops)
    for unit, many in scheme.done.items():
        result.units[unit] = _least(result.units.get(unit, 0.0), scheme.spent[unit] / many)


def _least(known: float, new: float) -> float:
    return min(known, new) if known else new
