"""Results on the terminal."""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from cli.output.job_tables import moment, new_table
from cli.service.api_types import Image, Mask, ResultDetail, ResultSummary

_MASKS_SHOWN = 5


def results_table(results: Iterable[ResultSummary]) -> Table:
    table = new_table("id", "picture", "found", "steps", "made")
    for result in results:
        table.add_row(
            result["id"],
            Text(result["uri"]),
            format_found_labels(result["masks"]),
            str(result["steps"]),
            moment(result["created_at"]),
        )
    return table


def format_found_labels(masks: Sequence[Mask]) -> Text:
    """`red star 0.93, blue circle 0.88`"""
    words = Text(", ").join(
        Text.assemble((mask["label"], "bold"), (f" {mask['score']:.2f}", "green")) for mask in masks[:_MASKS_SHOWN]
    )
    if len(masks) > _MASKS_SHOWN:
        words.append(f" and {len(masks) - _MASKS_SHOWN} more", "dim")
    return words if masks else Text("nothing", "dim")


def masks_table(masks: Sequence[Mask], image: Image) -> Table:
    table = new_table("word", "score", "area", "box x,y,w,h", "from")
    pixels = image["width"] * image["height"]
    for mask in masks:
        table.add_row(
            Text(mask["label"], "bold"),
            f"{mask['score']:.3f}",
            f"{mask['area']:,} px, {100 * mask['area'] / pixels:.1f} %",
            ",".join(map(str, mask["bbox"])),
            mask["source"],
        )
    return table


def format_sources(detail: ResultDetail, api: str) -> Table:
    """Links, a line each; those to objects work without a key, for some minutes."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, link in detail["links"].items():
        if link:
            table.add_row(name, Text(link if "://" in link else api + link, overflow="fold"))
    return table


def result_page(detail: ResultDetail) -> Table:
    """What made it and of what, a line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    image = detail["image"]
    table.add_row("result", Text(detail["id"], "bold"))
    for place in detail["uris"]:
        table.add_row("picture", Text(f"{place['uri']}" + (f"  (job {place['job']})" if place["job"] else "")))
    table.add_row("size", f"{image['width']} x {image['height']}, sha256 {image['sha256']}")
    for note in detail["notes"]:
        table.add_row("note", Text(note, "yellow"))
    table.add_row("made", f"{moment(detail['created_at'])} on {detail['device']} by {detail['worker']}")
    table.add_row("models", Text(detail["model_version"]))
    table.add_row("ended", f"{detail['stop_reason']} after {len(detail['steps'])} steps")
    return table
