"""`car bench flow`: how full the models' batches are while pictures come and go."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.bench.options import OnDevice, Threads, Turns, Where, prepare
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record

if TYPE_CHECKING:
    from evaluation.flow_cost import FlowCost

_SIZES = ((160, 160), (160, 160), (192, 128))
"""Of scenes, one after the other: f sees no batch of two sizes."""
_SIDES = ("f_batches", "f_filled", "g_batches", "g_filled", "cpu_s")


def flow(
    context: typer.Context,
    *,
    images: Annotated[int, typer.Option(min=2, help="Scenes, of two sizes.")] = 48,
    device: OnDevice = Where.CPU,
    turns: Turns = 1,
    threads: Threads = 1,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Compare pictures that share batches while they come and go with groups that are held to their end.

    The demo's models see its scenes, in batches of a GPU's shape wherever they compute.
    """
    prepare(device, threads)
    record = Record.begin(context, json_file, compare, fail_above, device=device)
    with Console(stderr=True).status("scenes in flight"):
        cost = _measure(images, device, turns)
    figures = cost.to_json()
    console = Console(soft_wrap=True)
    console.print(_table(figures))
    console.print(
        f"[bold]{figures['ratio_g_batches']:.2f} times fewer batches of g[/bold], {figures['ratio_f_batches']:.2f} of "
        f"f; the same words in {cost.same_words} of {cost.pictures} pictures; at most {cost.most} pictures in hand"
    )
    record.end(figures)


def _measure(images: int, device: Where, turns: int) -> "FlowCost":
    from car.presets import preset
    from car.vocabulary import Vocabulary
    from cli.model_choice import DEMO, ModelChoice, load
    from cli.options import Device
    from demo.scenes import WORDS, held_out_scenes
    from evaluation.flow_cost import measure_flow
    from worker.segmenter.segmenter import Segmenter

    recipe = preset("demo")
    pair = load(ModelChoice(DEMO), recipe, Device(device.value))
    sized = [held_out_scenes(-(-images // len(_SIZES)), seed=place, size=size) for place, size in enumerate(_SIZES)]
    pictures = [scene.image for scenes in zip(*sized, strict=True) for scene in scenes][:images]
    segmenter = Segmenter(pair.proposal, pair.classifier)
    return measure_flow(segmenter, pictures, Vocabulary.of(WORDS), recipe, turns=turns)


def _table(figures: dict[str, Any]) -> Table:
    table = Table("", "groups", "flow", title=f"{figures['pictures']} scenes, {figures['crops']} crops")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in _SIDES:
        sides = (figures[side][name] for side in ("groups", "flow"))
        told = "{:.0%}" if name.endswith("filled") else "{:,.4g}"
        table.add_row(name.replace("_", " "), *(told.format(value) for value in sides))
    return table
