"""Projects, their labels, tasks and feedback on the terminal."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from car.printable import printable
from cli.output.job_progress import STATE_STYLES
from cli.output.job_tables import moment, new_table
from cli.service.api_types import FailureReason, LabelFeedback, Project, ProjectTask

if TYPE_CHECKING:
    from car.label_studio.label_mapping import LabelTarget
    from car.label_studio.labeling_config import Control
    from car.label_studio.project_config import ProjectConfig

_PREDICTION_STYLES = {"sent": "green", "failed": "red", "orphaned": "yellow"}


def labels_table(config: "ProjectConfig") -> Table:
    """Return a table of each label's prompts, and the controls that show its masks."""
    if config.vocabulary is None:
        table = new_table("label", "asked as", "shown by")
        shown = dict.fromkeys(_control(one) for one in config.config.controls)
        table.add_row("each task's own", "words of its data", Text(", ".join(shown)))
        return table
    asked = [(config.mapping.by_name[label.name], label.prompts) for label in config.vocabulary.labels]
    aliased = any(place.label.strip() != place.visible for place, _ in asked)
    table = new_table("label", *(["regions carry"] if aliased else []), "asked as", "shown by")
    for place, prompts in asked:
        # Of several controls for masks the first is used; choices state additionally that the label was found.
        controls = ", ".join(_control(one) for one in [*place.controls[:1], *place.choices])
        carried = [Text(place.label.strip())] if aliased else []
        table.add_row(Text(place.visible), *carried, _words(place, prompts), Text(controls or "nothing", "cyan"))
    return table


def labels_json(config: "ProjectConfig") -> list[dict[str, Any]] | None:
    """Return the same as JSON; None if each task has words of its own."""
    if config.vocabulary is None:
        return None
    return [
        {
            "label": (place := config.mapping.by_name[label.name]).visible,
            "region_label": place.label,
            "prompts": list(label.prompts),
            "prompt_source": str(place.prompt_source),
        }
        for label in config.vocabulary.labels
    ]


def _words(target: "LabelTarget", prompts: tuple[str, ...]) -> Text:
    """Return the words that CLIP reads; marked, with their source, if they are not those that annotators see."""
    words = Text(", ".join(prompts))
    if prompts == (target.visible,):
        return words
    return words.append(f" ({target.prompt_source})", "yellow")


def _control(control: "Control") -> str:
    return f"{control.kind} “{control.name}”"


def project_page(project: Project) -> Table:
    """Return a project's state, one line per value."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("project", Text(" ".join(filter(None, [str(project["ls_project_id"]), project["title"]])), "bold"))
    table.add_row("Label Studio", Text(project["instance"]))
    table.add_row("words", Text(_project_words(project)))
    table.add_row("recipe", Text(project["preset"]))
    table.add_row("version", Text(project["model_version"]))
    table.add_row("tasks", f"{project['tasks']:,}")
    table.add_row("images", _counts(project["items"], STATE_STYLES))
    table.add_row("predictions", _counts(project["predictions"], _PREDICTION_STYLES))
    table.add_row("last sync", Text(_sync(project)))
    for name, key in (("/setup", "setup_at"), ("/predict", "predict_at"), ("webhook", "webhook_at")):
        at: str | None = project.get(key)  # type: ignore[assignment] # times are texts
        table.add_row(f"last {name}", moment(at) if at else "never")
    for warning in project["warnings"]:
        table.add_row("note", Text(printable(warning), "yellow"))
    for problem in project["problems"]:
        table.add_row("problem", Text(f"{problem['detail']} ({problem['code']})", "yellow"))
    return table


def projects_table(projects: Iterable[Project]) -> Table:
    table = new_table("project", "title", "tasks", "done", "failed", "sent", "last sync", "Label Studio")
    for one in projects:
        failed = one["items"].get("failed", 0) + one["items"].get("dead", 0)
        table.add_row(
            str(one["ls_project_id"]),
            Text(one["title"] or ""),
            f"{one['tasks']:,}",
            f"{one['items'].get('done', 0):,}",
            Text(f"{failed:,}" if failed else "", "red"),
            f"{one['predictions'].get('sent', 0):,}",
            Text(_sync(one)),
            Text(one["instance"]),
        )
    return table


def reasons_table(reasons: Iterable[tuple[str, FailureReason]]) -> Table:
    """Return the reasons why tasks have no prediction, each with one of its tasks."""
    table = new_table("what", "tasks", "why", "for one, task")
    for what, one in reasons:
        why = Text(f"{one['example']} ({one['code']})", "red")
        table.add_row(what, f"{one['count']:,}", why, str(one["ls_task_id"]))
    return table


def tasks_table(tasks: Iterable[ProjectTask]) -> Table:
    table = new_table("task", "image", "state", "prediction", "result, or why not")
    for one in tasks:
        fault = one["error"] or one["prediction_error"]
        why = Text(f"{fault['detail']} ({fault['code']})", "red") if fault else Text(one["result"] or "")
        table.add_row(
            str(one["ls_task_id"]),
            Text(one["uri"]),
            Text(one["state"], STATE_STYLES.get(one["state"], "")),
            Text(one["prediction"] or "", _PREDICTION_STYLES.get(one["prediction"] or "", "")),
            why,
        )
    return table


def feedback_table(agreements: Iterable[LabelFeedback]) -> Table:
    table = new_table("label", "asked as", "kept", "changed", "taken away", "missed", "acceptance", "mean IoU")
    for one in agreements:
        outcomes = one["outcomes"]
        table.add_row(
            Text(one["label"]),
            Text(one["prompts"] if one["prompts"] != one["label"] else ""),
            *(f"{outcomes.get(name, 0):,}" for name in ("accepted", "changed", "rejected", "missed")),
            _share(one["acceptance"]),
            "" if one["mean_iou"] is None else f"{one['mean_iou']:.2f}",
        )
    return table


def _counts(counts: Mapping[str, int], styles: Mapping[str, str]) -> Text:
    parts = [Text(f"{number:,} {state}", styles.get(state, "")) for state, number in counts.items() if number]
    return Text(" · ").join(parts) if parts else Text("none")


def _project_words(project: Project) -> str:
    labels = project["labels"]
    return "each task's own" if labels is None else ", ".join(one["name"] for one in labels)


def _sync(project: Project) -> str:
    sync = project["sync"]
    if sync["error"]:
        return f"failed: {sync['error']}"
    if sync["wanted_at"]:
        return f"under way, {sync['seen']:,} of {sync['total'] or '?'}"
    return moment(sync["synced_at"]) if sync["synced_at"] else "never"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
