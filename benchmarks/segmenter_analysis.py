"""The segmenter's time explained: operations counted, floors of every stage, CAMs by autograd, throughput."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import torch

from benchmarks.op_counter import Counts, OpCounter
from benchmarks.roofline import Peaks, Stage, measure_peaks
from benchmarks.segmenter_roofline import Demand, crop_flop, floors, image_flop
from benchmarks.throughput import Throughput, measure_throughput
from car.segmentation import Segmentation
from evaluation.reference.autograd_cams import cams as autograd_cams
from evaluation.reference.official_scheme import OfficialScheme, OfficialStep, Unit
from evaluation.segmenter_speed import Comparison, Models, Setting
from worker.segmenter import proposals
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.postprocess import PendingSegmentation
from worker.segmenter.requests import SegmentRequest
from worker.segmenter.segmenter import Segmenter

Postprocess = Callable[[PendingSegmentation], Future[Segmentation]]
"""Such as worker.pipeline.postprocess_pool.PostprocessPool.submit."""


class SegmenterAnalysis(Comparison):
    """A comparison with counts of operations, peaks of the machine and, if asked for, a stream of images."""

    def __init__(self, setting: Setting, models: Models) -> None:
        """Count the operations of all images together, with the texts known."""
        super().__init__(setting, models)
        with OpCounter() as counter:
            self.segmenter.segment([self.image] * setting.images_together, self.vocabulary, self.recipe)
        self.counts: Counts = counter.counts
        self.text_tokens = self._text_tokens()
        """Of the vocabulary's texts, embedded once: f's and g's."""
        self.cams_s: dict[str, float] = {}
        """Ours in closed form, and by autograd."""
        self.peaks: Mapping[torch.dtype, Peaks] = {}
        """Of this machine in this run, in each precision used."""
        self.throughput: Throughput | None = None
        self.official_full_s: float | None = None
        """The official scheme run to its end, without the CRF."""
        self.full_steps: list[OfficialStep] = []

    def measure_turn(self) -> None:
        """Measure our side, the CAMs of both sides, and the units of the official scheme."""
        self.measure_segmenter()
        scheme = self.official_scheme()
        self._measure_cams(scheme)
        self.measure_units(scheme)

    def run_official(self) -> None:
        """Run the official scheme to its end instead of computing its time from units."""
        start = self.clock()
        self.full_steps = self.official_scheme().run()
        self.official_full_s = self.clock() - start

    def measure_stream(self, images: int, postprocess: Postprocess) -> None:
        """Segment the same image many times: each run asks for the same work and keeps nothing for the next."""
        segmenter = Segmenter(*self.models.segmenter, self.setting.batches)

        def workload(count: int) -> None:
            requests = (SegmentRequest(number, self.image, self.vocabulary, self.recipe) for number in range(count))
            pending = []
            for _, outcome in segmenter.scheduler().run(requests):
                if isinstance(outcome, Exception):
                    raise outcome
                if outcome is not None:
                    pending.append(postprocess(outcome))
            for future in pending:
                future.result()

        together = self.setting.images_together
        self.throughput = measure_throughput(workload, images, self.setting.torch_device, warm_up=together)

    def _text_tokens(self) -> tuple[int, int]:
        """Return the tokens of all texts that worker.segmenter.clip.texts embeds, start and end included."""
        vocabulary = self.vocabulary
        prompts = [prompt for label in vocabulary.labels for prompt in label.prompts]
        cam_texts = [vocabulary.cam_template.format(word) for word in [*prompts, *vocabulary.background]]
        classified = [template.format(prompt) for template in vocabulary.classifier_templates for prompt in prompts]

        def tokens(encoder: Encoder, texts: list[str]) -> int:
            rows = encoder.tokens(texts)
            return int((rows != rows[:, -1:]).sum()) + len(rows)  # padded with the end token, which counts once

        return tokens(self.segmenter.proposal, prompts + cam_texts), tokens(self.segmenter.classifier, classified)

    def _measure_cams(self, scheme: OfficialScheme) -> None:
        """Time the CAMs of all steps from the last block's input on, in closed form and by autograd."""
        block, _, grid = scheme.encode_image()
        f, vocabulary = self.segmenter.proposal, self.vocabulary
        labels = [label.prompts[0] for label in vocabulary.labels]
        background = f.texts([vocabulary.cam_template.format(word) for word in vocabulary.background])
        raw, templated = f.texts(labels), f.texts([vocabulary.cam_template.format(label) for label in labels])
        position = {label: i for i, label in enumerate(labels)}
        alive = [[position[query.label] for query in trace.step.queries] for trace in self.traces]
        queries_of_steps = [(templated if step else raw)[rows] for step, rows in enumerate(alive)]

        def closed_form() -> None:
            encoded = proposals.encode_tokens(f, block.tokens.to(f.dtype), None, grid)
            exact_background = encoded.exact(background)
            logits = f.scale * exact_background @ encoded.z
            m_bg = encoded.maps(logits.softmax(0) @ exact_background[None])[0]
            maps = {True: encoded.maps(raw), False: encoded.maps(templated[alive[1]]) if len(alive) > 1 else raw}
            for step, texts in enumerate(queries_of_steps):
                rows = alive[0] if step == 0 else [alive[1].index(i) for i in alive[step]]
                scores = f.scale * encoded.exact(texts) @ encoded.z
                proposals.gradcams(maps[step == 0][rows], scores, m_bg, torch.logsumexp(logits, 0))

        def by_autograd() -> None:
            for texts in queries_of_steps:
                autograd_cams(block, texts, background)

        for name, call in (("ours", closed_form), ("autograd", by_autograd)):
            start = self.clock()
            call()
            seconds = self.clock() - start
            self.cams_s[name] = min(seconds, self.cams_s.get(name, seconds))

    @property
    def official_s(self) -> float:
        """As measured by `run_official`, else from counted units."""
        if self.official_full_s is None:
            return super().official_s
        return self.official_full_s + self.stages["crf"]

    @property
    def forwards(self) -> tuple[float, float]:
        """This image's share of the batches of f and of g."""
        f, g = (
            self.counts.convolutions[shape.width, 3, shape.patch, shape.patch] / self.setting.images_together
            for shape in self.setting.shapes
        )
        return f, g

    @property
    def stages_with_floors(self) -> dict[str, Stage]:
        """Our stages and their floors; `text` is once a vocabulary."""
        setting = self.setting
        demand = Demand(
            height=setting.height,
            width=setting.width,
            shapes=setting.shapes,
            weight_bytes=(setting.dtype.itemsize, setting.blocks_dtype.itemsize),
            queries_of_steps=self.sizes,
            survivors=sum(query.kept for query in self.traces[-1].step.queries),
            products=self.work.vector_jacobian_products,
            crops=self.work.crops_encoded,
            text_tokens=self.text_tokens,
        )
        least = floors(demand)
        return {name: Stage(cost, least.get(name)) for name, cost in ({"text": self.texts_s} | self.stages).items()}

    def to_json(self) -> dict[str, Any]:
        """Return all figures, ratios first. A stage's floor is in the precision in which the stage was computed."""
        setting, total, crf = self.setting, self.ours_s, self.stages["crf"]
        dtypes = {"classifier": setting.blocks_dtype}
        stages = self.stages_with_floors.items()
        height, width = proposals.padded_size(setting.height, setting.width)
        autograd_s = total - self.cams_s["ours"] + self.cams_s["autograd"]
        texts = len(self.vocabulary.background) + setting.queries * (2 + len(self.vocabulary.classifier_templates))
        return super().to_json() | {
            "ratio_official_without_crf": (self.official_s - crf) / (total - crf),
            "ratio_autograd": self.cams_s["autograd"] / self.cams_s["ours"],
            "ratio_autograd_whole": autograd_s / total,
            "ratio_crops": self.unit_counts[Unit.CROP] / max(1, self.work.crops_encoded),
            "official_is": "computed from counted units" if self.official_full_s is None else "measured",
            "official_computed_s": super().official_s,
            "autograd_s": autograd_s,
            "cams_s": self.cams_s,
            "stages": {name: stage.to_json(self.peaks[dtypes.get(name, setting.dtype)]) for name, stage in stages},
            "counts": {
                "ours": vars(self.work)
                | {"f_forwards": self.forwards[0], "g_forwards": self.forwards[1]}
                | self.counts.per_image(setting.images_together),
                "ours_once": {"texts": texts, "tokens": self.text_tokens},
                "official": {str(unit): count for unit, count in self.unit_counts.items()},
            },
            "stream": self.throughput.to_json() if self.throughput else None,
            "peaks": {str(dtype).removeprefix("torch."): peaks.to_json() for dtype, peaks in self.peaks.items()},
            "tera_flop": {
                "f_image": image_flop(setting.shapes[0], height, width) / 1e12,
                "g_crop": crop_flop(setting.shapes[1]) / 1e12,
            },
        }


def peaks_of(setting: Setting, *, scale: float = 1.0) -> dict[torch.dtype, Peaks]:
    """Return the machine's peaks in every precision that our side computes in."""
    return {
        dtype: measure_peaks(setting.torch_device, dtype, scale=scale)
        for dtype in dict.fromkeys((setting.dtype, setting.blocks_dtype))
    }


def analyze(
    setting: Setting,
    progress: Callable[[str], None] = lambda _: None,
    *,
    models: Models | None = None,
    peaks: Mapping[torch.dtype, Peaks] | None = None,
    stream: int = 0,
    full: bool = False,
    postprocess: Postprocess | None = None,
) -> SegmenterAnalysis:
    """Measure our segmenter, per-query autograd and the official scheme in alternation in this process.

    `progress` receives the name of each phase. `models` and `peaks` may come from an earlier setting of this run.
    `stream` is the number of images of the throughput run, whose masks `postprocess` computes (None: this thread).
    """
    progress("counting operations")
    analysis = SegmenterAnalysis(setting, models or Models.load(setting))
    for turn in range(setting.turns):
        progress(f"turn {turn + 1} of {setting.turns}")
        analysis.measure_turn()
    progress("peaks of the machine")
    analysis.peaks = peaks or peaks_of(setting)
    if stream:
        progress("throughput")
        analysis.measure_stream(stream, postprocess or _postprocess_here)
    if full:
        progress("the official scheme to its end")
        analysis.run_official()
    return analysis


def _postprocess_here(pending: PendingSegmentation) -> Future[Segmentation]:
    future: Future[Segmentation] = Future()
    future.set_result(pending.finish())
    return future
