"""Tables of results."""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from car.printable import printable
from cli.output.job_tables import moment, new_page, new_table
from cli.service.api_types import Image, Mask, ResultDetail, ResultSummary

_MASKS_SHOWN = 5


def results_table(results: Iterable[ResultSummary]) -> Table:
    table = new_table("id", "image", "masks", "steps", "models", "created")
    for result in results:
        table.add_row(
            result["id"],
            Text(printable(result["uri"])),
            format_found_labels(result["masks"]),
            str(result["steps"]),
            result["models"].get("classifier", ""),
            moment(result["created_at"]),
        )
    return table


def format_found_labels(masks: Sequence[Mask]) -> Text:
    """Return labels and scores, such as `red star 0.93, blue circle 0.88`."""
    labels = Text(", ").join(
        Text.assemble((printable(mask["label"]), "bold"), (f" {mask['score']:.2f}", "green"))
        for mask in masks[:_MASKS_SHOWN]
    )
    if len(masks) > _MASKS_SHOWN:
        labels.append(f" and {len(masks) - _MASKS_SHOWN} more", "dim")
    return labels if masks else Text("nothing", "dim")


def masks_table(masks: Sequence[Mask], image: Image) -> Table:
    table = new_table("label", "score", "area", "box x,y,w,h", "source")
    pixel_count = image["width"] * image["height"]
    for mask in masks:
        table.add_row(
            Text(printable(mask["label"]), "bold"),
            f"{mask['score']:.3f}",
            f"{mask['area']:,} px, {100 * mask['area'] / pixel_count:.1f} %",
            ",".join(map(str, mask["bbox"])),
            mask["source"],
        )
    return table


def links_page(detail: ResultDetail, api_url: str) -> Table:
    """Return the links, one per line. Links to objects need no key for some minutes."""
    table = new_page()
    for name, link in detail["links"].items():
        if link:
            table.add_row(name, Text(link if "://" in link else api_url + link, overflow="fold"))
    return table


def result_page(detail: ResultDetail) -> Table:
    """Return a result's image, models and stop reason, one line each."""
    table = new_page()
    image = detail["image"]
    table.add_row("result", Text(detail["id"], "bold"))
    for source in detail["uris"]:
        table.add_row("image", Text(printable(source["uri"]) + (f"  (job {source['job']})" if source["job"] else "")))
    table.add_row("size", f"{image['width']} x {image['height']}, sha256 {image['sha256']}")
    for note in detail["notes"]:
        table.add_row("note", Text(printable(note), "yellow"))
    table.add_row("created", f"{moment(detail['created_at'])} on {detail['device']} by {detail['worker']}")
    table.add_row("models", ", ".join(f"{role} {name}" for role, name in detail["models"].items()))
    table.add_row("model version", Text(detail["model_version"]))
    table.add_row("stopped", f"{detail['stop_reason']} after {len(detail['steps'])} steps")
    return table
