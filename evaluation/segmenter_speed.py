"""The segmenter's cost beside two plainer schemes of the same arithmetic, timed turn about in one process.

Full-size architectures with random weights stand in for CLIP, whose speed depends on shapes alone. Scores of random
weights mean nothing, so theta is chosen after a look at step 1: it keeps exactly as many queries as asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8

from car.presets import preset
from car.recipe import Recipe
from car.segmentation import Segmentation
from car.vocabulary import Vocabulary
from car.words import VOC_QUERIES
from evaluation.autograd_cams import cams as autograd_cams
from evaluation.counting import Counting
from evaluation.floor import Peaks, clock_of
from evaluation.official_scheme import OfficialScheme, Unit
from evaluation.prompts_cost import measure_prompts
from evaluation.segmenter_cost import Comparison, Setting
from evaluation.segmenter_models import Models, peaks_of
from evaluation.stream import Stream, measure_stream
from worker.segmenter import proposals
from worker.segmenter.asking import Ask
from worker.segmenter.encoder import Encoder
from worker.segmenter.finishing import Unfinished
from worker.segmenter.recurrence import Look
from worker.segmenter.segmenter import Segmenter

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of all is done, and how much that is."""

Finish = Callable[[Unfinished], Future[Segmentation]]
"""Such as worker.finishers.Finishers.submit."""


@dataclass
class _Bar:
    """Progress in crops, which cost nearly everything."""

    progress: Progress
    total: int
    what: str = ""
    done: int = 0

    def doing(self, what: str) -> None:
        self.what = what
        self.add(0)

    def add(self, many: int) -> None:
        self.done += many
        self.progress(self.what, min(self.done, self.total), self.total)

    def unit(self, unit: Unit, many: int) -> None:
        """One unit of the official scheme is done."""
        if unit is Unit.CROP:
            self.add(many)


def compare(
    setting: Setting,
    progress: Progress,
    *,
    models: Models | None = None,
    peaks: Mapping[torch.dtype, Peaks] | None = None,
    finish: Finish | None = None,
) -> Comparison:
    """Measure ours, per-query autograd and the official scheme turn about in this process.

    `models` and `peaks` may be those of an earlier setting of this run. `finish` is how pictures of a stream come to
    masks (none: one after the other in this thread).
    """
    vocabulary = Vocabulary.of(VOC_QUERIES[: setting.queries])
    result = Comparison(setting, vocabulary)
    a_run = setting.queries + (setting.survivors if setting.survivors > 1 else 0)
    a_full_run = len(vocabulary.classifier_templates) * (setting.queries + setting.survivors) if setting.full else 0
    ours_alone = 2 * setting.queries + a_run
    bar = _Bar(progress, ours_alone + setting.turns * (a_run + setting.queries) + a_full_run)
    bar.doing("building random models")
    models = models or Models.of(setting)
    clock = clock_of(setting.where)
    image = picture(setting.height, setting.width)
    ours = Segmenter(*models.ours, setting.batches, clock)
    bar.doing("choosing theta after step 1")
    recipe = _recipe(ours, image, result)
    bar.add(2 * setting.queries)
    bar.doing("counting")
    _count(ours, image, recipe, result)
    bar.add(a_run)
    for _ in range(setting.turns):
        bar.doing("ours")
        _measure_ours(ours, image, recipe, result)
        bar.add(a_run)
        scheme = OfficialScheme(*models.official, image, vocabulary, recipe, after_unit=bar.unit, clock=clock)
        bar.doing("CAMs by autograd")
        _measure_cams(scheme, ours.proposal, result)
        bar.doing("units of the official scheme")
        _measure_units(scheme, result)
    bar.doing("what the machine does at best")
    result.peaks = peaks or peaks_of(setting)
    bar.doing("visual prompts")
    result.prompts = measure_prompts(setting.width, setting.height, setting.queries, setting.where, setting.turns)
    if setting.stream:
        bar.doing("a stream of pictures")
        result.stream = _stream(models, image, recipe, result, finish)
    if setting.full:
        bar.doing("the official scheme to its end")
        scheme = OfficialScheme(*models.official, image, vocabulary, recipe, after_unit=bar.unit, clock=clock)
        start = clock()
        result.full_steps = scheme.run()
        result.official_full_s = clock() - start
    return result


def picture(height: int, width: int, seed: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """RGB patches of random colours with grain: something for attention and CRF to hold on to."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(32, 224, (-(-height // 64), -(-width // 64), 3)).repeat(64, 0).repeat(64, 1)
    grain = rng.integers(-8, 9, (height, width, 3))
    return (tiles[:height, :width] + grain).astype(np.uint8)


def _recipe(ours: Segmenter, image: UInt8[np.ndarray, "h w 3"], result: Comparison) -> Recipe:
    """The recipe whose theta lies between the scores of step 1 that shall and that shall not survive. Embeds the texts
    and warms everything up on the way.
    """
    setting, looks = result.setting, list[Look]()
    once = replace(preset("voc"), max_steps=1)
    first = ours.segment([image], result.vocabulary, once, observe=lambda _, look: looks.append(look))[0]
    result.texts_s = first.timings["text_ms"] / 1000
    result.text_tokens = _text_tokens(ours, result.vocabulary)
    scores = [*sorted((query.score for query in looks[0].step.queries), reverse=True), 0.0]
    theta = (scores[setting.survivors - 1] + scores[setting.survivors]) / 2
    return replace(once, theta=theta, max_steps=setting.steps)


def _text_tokens(ours: Segmenter, vocabulary: Vocabulary) -> tuple[int, int]:
    """Of all texts that worker.segmenter.texts embeds, start and end included: f's and g's."""
    prompts = [prompt for label in vocabulary.labels for prompt in label.prompts]
    cams = [vocabulary.cam_template.format(word) for word in [*prompts, *vocabulary.background]]
    classified = [template.format(prompt) for template in vocabulary.classifier_templates for prompt in prompts]

    def tokens(encoder: Encoder, texts: Sequence[str]) -> int:
        rows = encoder.tokens(texts)
        return int((rows != rows[:, -1:]).sum()) + len(rows)  # padded with the end token, which counts once

    return tokens(ours.proposal, prompts + cams), tokens(ours.classifier, classified)


def _count(ours: Segmenter, image: UInt8[np.ndarray, "h w 3"], recipe: Recipe, result: Comparison) -> None:
    """Not timed, because counting is not free."""
    company = result.setting.company
    with Counting() as counting:
        ours.segment([image] * company, result.vocabulary, recipe)
    counts = counting.counts
    f, g = (counts.convolutions[shape.width, 3, shape.patch, shape.patch] for shape in result.setting.shapes)
    result.counted_ours, result.forwards = counts.of_one(company), (f / company, g / company)


def _stream(
    models: Models, image: UInt8[np.ndarray, "h w 3"], recipe: Recipe, result: Comparison, finish: Finish | None
) -> Stream:
    """The same picture over and over: all ask for the same work, and nothing of one is kept for the next."""
    segmenter, setting = Segmenter(*models.ours, result.setting.batches), result.setting

    def work(images: int) -> None:
        asks = (Ask(number, image, result.vocabulary, recipe) for number in range(images))
        waiting = []
        for _, found in segmenter.flow().over(asks):
            if isinstance(found, Exception):
                raise found
            if found is not None:
                waiting.append((finish or _finish)(found))
        for one in waiting:
            one.result()

    return measure_stream(work, setting.stream, setting.where, warm_up=setting.company)


def _finish(unfinished: Unfinished) -> Future[Segmentation]:
    done: Future[Segmentation] = Future()
    done.set_result(unfinished.finish())
    return done


def _measure_ours(ours: Segmenter, image: UInt8[np.ndarray, "h w 3"], recipe: Recipe, result: Comparison) -> None:
    looks, company = list[Look](), result.setting.company

    def observe(index: int, look: Look) -> None:
        if index == 0:
            looks.append(look)

    done = ours.segment([image] * company, result.vocabulary, recipe, observe=observe)
    names = [name for name in done[0].timings if name != "text_ms"]
    stages = {
        name.removesuffix("_ms"): sum(one.timings.get(name, 0.0) for one in done) / company / 1000 for name in names
    }
    if not result.stages or sum(stages.values()) < result.ours_s:
        result.stages = stages
    result.work, result.looks = done[0].work, looks
    result.sizes = [len(look.step.queries) for look in looks]


def _measure_cams(scheme: OfficialScheme, f: Encoder, result: Comparison) -> None:
    """All steps' CAMs from the tokens before the last block on: closed form and autograd, with the same texts."""
    block, _, grid = scheme.encode_picture()
    vocabulary = result.vocabulary
    labels = [label.prompts[0] for label in vocabulary.labels]
    background = f.texts([vocabulary.cam_template.format(word) for word in vocabulary.background])
    raw, templated = f.texts(labels), f.texts([vocabulary.cam_template.format(label) for label in labels])
    place = {label: i for i, label in enumerate(labels)}
    alive = [[place[query.label] for query in look.step.queries] for look in result.looks]
    sets = [(templated if step else raw)[rows] for step, rows in enumerate(alive)]

    def closed_form() -> None:
        encoded = proposals.encode_tokens(f, block.tokens.to(f.dtype), None, grid)
        logits = f.scale * background @ encoded.z
        m_bg = encoded.maps(logits.softmax(0) @ background[None])[0]
        maps = {True: encoded.maps(raw), False: encoded.maps(templated[alive[1]]) if len(alive) > 1 else raw}
        for step, texts in enumerate(sets):
            rows = alive[0] if step == 0 else [alive[1].index(i) for i in alive[step]]
            proposals.gradcams(maps[step == 0][rows], f.scale * texts @ encoded.z, m_bg, torch.logsumexp(logits, 0))

    def by_autograd() -> None:
        for texts in sets:
            autograd_cams(block, texts, background)

    result.ours_cams_s = _least(result.ours_cams_s, scheme.seconds(closed_form))
    result.autograd_cams_s = _least(result.autograd_cams_s, scheme.seconds(by_autograd))


def _measure_units(scheme: OfficialScheme, result: Comparison) -> None:
    """Each unit in the company in which the official scheme does it: one of a kind, or one template's texts and crops
    of step 1.
    """
    scheme.done.clear()
    scheme.spent.clear()
    words = [label.prompts[0] for label in result.vocabulary.labels]
    block, attention, grid = scheme.encode_picture()
    texts = scheme.proposal_texts(words)
    for index in range(min(3, len(words))):
        cam, own = scheme.query_cam(block, index, texts, scheme.proposal_texts(result.vocabulary.background[:1]))
        scheme.refine(cam, own, attention, grid)
    crops = scheme.show(result.looks[0].cams)
    scheme.classifier_texts([result.vocabulary.classifier_templates[0].format(word) for word in words])
    scheme.encode_crops(crops)
    for unit, many in scheme.done.items():
        result.units[unit] = _least(result.units.get(unit, 0.0), scheme.spent[unit] / many)


def _least(known: float, new: float) -> float:
    return min(known, new) if known else new
