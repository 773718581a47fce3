"""The tables and sentences of `car bench segmenter`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from evaluation.segmenter_cost import Comparison


def show(console: Console, result: "Comparison") -> None:
    """Everything that one setting told."""
    figures, setting = result.to_json(), result.setting
    console.print(
        f"[bold]{setting.width} x {setting.height}[/bold], queries of the steps {result.sizes}, "
        f"{figures['templates']} templates; {figures['device']}, {figures['precision']}, {figures['threads']} "
        f"thread(s), torch {figures['torch']}; {figures['seconds_are']}"
    )
    console.print(stages_table(figures["stages"], "ours, once a picture (text: once a vocabulary)"))
    console.print(_counts(result, figures), _units(result))
    for line in _sentences(result, figures):
        console.print(line)


def summary(results: "Sequence[Comparison]") -> Table:
    """One line a setting."""
    table = Table("picture", "ours, s", "official, s", "ratio", "with texts", "times the floor", "images/s")
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results:
        figures = result.to_json()
        picture = [stage for name, stage in figures["stages"].items() if name != "text"]
        least = sum(stage.get("floor_seconds", 0.0) for stage in picture)
        table.add_row(
            result.setting.name,
            f"{result.ours_s:.3g}",
            f"{result.official_s:.3g}",
            f"{figures['ratio_official']:.1f}",
            f"{figures['ratio_official_with_texts']:.1f}",
            f"{result.ours_s / least:.2f}",
            f"{result.stream.images_per_s:.2f}" if result.stream else "",
        )
    return table


def stages_table(stages: dict[str, Any], title: str) -> Table:
    """Each stage beside its floor."""
    table = Table("stage", "seconds", "floor", "times the floor", "ruled by", title=title, title_justify="left")
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, stage in stages.items():
        times = stage.get("times_floor")
        table.add_row(
            name,
            f"{stage['seconds']:.3g}",
            f"{stage['floor_seconds']:.2g}" if "floor_seconds" in stage else "",
            f"{times:,.1f}" if times else "",
            stage.get("ruled_by", ""),
        )
    return table


def _counts(result: "Comparison", figures: dict[str, Any]) -> Table:
    ours = figures["counts"]["ours"]
    table = Table("ours: counted", "a picture", title_justify="left")
    table.columns[1].justify = "right"
    for name, told in (
        ("forward passes of f", "f_forwards"),
        ("forward passes of g", "g_forwards"),
        ("crops through g", "crops_encoded"),
        ("crops that g had seen", "crops_reused"),
        ("vector-Jacobian products", "vector_jacobian_products"),
        ("products of matrices", "products"),
    ):
        table.add_row(name, f"{ours[told]:,.4g}")
    least = sum(stage.floor.flop for name, stage in result.told.items() if stage.floor and name != "text")
    table.add_row("TFLOP, and the floor's", f"{ours['flop'] / 1e12:.3g}, {least / 1e12:.3g}")
    table.add_row("MiB sent to the device", f"{ours['uploaded_bytes'] / 2**20:.2f}")
    return table


def _units(result: "Comparison") -> Table:
    table = Table("official: unit", "each, s", "times", "s", title="of the steps", title_justify="left")
    for unit, many in result.counted.items():
        cost = result.units[unit]
        table.add_row(str(unit), f"{cost:.3g}", str(many), f"{cost * many:.3g}")
    return table


def _sentences(result: "Comparison", figures: dict[str, Any]) -> list[str]:
    lines = [
        (
            f"official scheme {result.official_s:.3g} s ({figures['official_is']}, {figures['official_precision']}), "
            f"ours {result.ours_s:.3g} s: [bold]{figures['ratio_official']:.1f} times less[/bold]; "
            f"with the vocabulary's texts, embedded once a job in {result.texts_s:.3g} s, "
            f"{figures['ratio_official_with_texts']:.1f}; without the CRF on either side, "
            f"{figures['ratio_official_without_crf']:.1f}"
        ),
        (
            f"CAMs by autograd a query and step {result.autograd_cams_s:.3g} s, ours {result.ours_cams_s:.3g} s: "
            f"[bold]{figures['ratio_autograd']:.1f} times less[/bold]; of the whole picture "
            f"{figures['ratio_autograd_whole']:.2f}"
        ),
        (
            f"crops through g: {result.crops_of_official} in the official scheme, {result.work.crops_encoded} here: "
            f"{figures['ratio_crops']:.1f} times fewer"
        ),
    ]
    lines += [
        f"at best, {name}, seen in this run: {peaks['peak_flop_per_s'] / 1e9:,.0f} GFLOP and "
        f"{peaks['peak_bytes_per_s'] / 1e9:,.1f} GB in one of these seconds"
        for name, peaks in figures["peaks"].items()
    ]
    if result.prompts is not None:
        lines.append(
            f"visual prompts of {result.prompts.words} masks of one spot each: {result.prompts.reference_s:.3g} s one "
            f"by one, {result.prompts.ours_s:.3g} s here: {result.prompts.ratio:.1f} times less, to the same pixel"
        )
    if result.stream is not None:
        memory = result.stream.peak_memory
        lines.append(
            f"{result.stream.images} pictures one after the other: [bold]{result.stream.images_per_s:.2f} "
            f"images/s[/bold], busy {result.stream.busy_share:.0%} of the time"
            + (f", {memory / 2**30:.2f} GiB of the device's memory at most" if memory is not None else "")
        )
    if result.official_full_s is not None:
        lines.append(f"computed from counted units it would be {figures['official_computed_s']:.3g} s")
        lines.append(f"largest difference of a score between the two: {_largest_difference(result):.1e}")
    return lines


def _largest_difference(result: "Comparison") -> float:
    pairs = zip(result.looks, result.full_steps, strict=True)
    return max(
        abs(query.score - score)
        for look, step in pairs
        for query, score in zip(look.step.queries, step.scores, strict=True)
    )
