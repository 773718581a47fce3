"""What old and new figures say to each other, and what is no earlier record at all."""

import json

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cli.bench.compare import Change, Kind, changes, kind_of, show_changes
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record
from cli.main import _Commands

OLD = {"stages": {"encode": {"seconds": 2.0, "times_floor": 2.0}}, "counts": {"crops": 10}, "images_per_s": 5.0}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("ours_s", Kind.TIME),
        ("stages/crf/seconds", Kind.TIME),
        ("claim_ms_per_item/32", Kind.TIME),
        ("images_per_s", Kind.RATE),
        ("memory/new/items_per_second", Kind.RATE),
        ("peak_rss/encode", Kind.MEMORY),
        ("peak_memory", Kind.MEMORY),
        ("redis_growth_mb", Kind.MEMORY),
        ("ratio_official", Kind.QUALITY),
        ("agreement", Kind.QUALITY),
        ("busy_share", Kind.QUALITY),
        ("stages/crf/times_floor", Kind.DISTANCE),
        ("time_by_floor", Kind.DISTANCE),
        # Yardsticks of a run, and counts.
        ("official_s", Kind.NEUTRAL),
        ("seconds/pydensecrf", Kind.NEUTRAL),
        ("stages/crf/floor_seconds", Kind.NEUTRAL),
        ("peaks/float32/peak_bytes_per_s", Kind.NEUTRAL),
        ("counts/ours/crops_encoded", Kind.NEUTRAL),
        ("small_ms/idle/n", Kind.NEUTRAL),
        ("small_ms/beside//setup/late", Kind.NEUTRAL),
        ("small_ms/beside/floor/p99", Kind.NEUTRAL),
    ],
)
def test_a_figures_name_says_what_it_is(path, kind):
    assert kind_of(tuple(path.split("/"))) is kind


@pytest.mark.parametrize(
    ("path", "old", "new", "mark"),
    [
        ("ours_s", 1.0, 1.05, ""),
        ("ours_s", 1.0, 1.2, "slower"),
        ("ours_s", 1.0, 0.8, "faster"),
        ("images_per_s", 10.0, 8.0, "slower"),
        ("peak_rss", 100, 200, "worse"),
        ("ratio_official", 10.0, 12.0, "better"),
        ("official_s", 1.0, 9.0, ""),
        ("ours_s", 0.00001, 0.0009, ""),  # under a millisecond of seconds: noise
        ("claim_ms", 0.04, 0.08, "slower"),
        ("ours_s", 0.0, 1.0, ""),
    ],
)
def test_more_than_a_tenth_is_marked_in_the_direction_that_counts(path, old, new, mark):
    assert Change((path,), old, new).mark == mark


def test_only_figures_of_both_are_compared_and_lists_go_by_their_names():
    old = {"filters": [{"filter": "label", "p50_ms": 2.0}, {"filter": "job", "p50_ms": 3.0}], "gone": 1}
    new = {"filters": [{"filter": "job", "p50_ms": 6.0}], "machine": {"cores": 4}, "schema": 1, "came": 2}
    (change,) = changes(old, new)
    assert (change.name, change.old, change.new, change.mark) == ("filters / job / p50_ms", 3.0, 6.0, "slower")


def test_the_table_tells_cases_apart_and_counts_only_where_they_changed(tmp_path):
    console = Console(width=100, record=True)
    new = {"cases": {"a": OLD | {"counts": {"crops": 12}}, "b": OLD}}
    show_changes(console, tmp_path / "old.json", {}, changes({"cases": {"a": OLD, "b": OLD}}, new))
    text = console.export_text()
    assert text.count("stages / encode / seconds") == 2
    assert text.count("counts / crops") == 1
    assert "0 of 8 figures got worse" in text


@pytest.fixture
def run():
    """A benchmark of one figure."""
    app = typer.Typer(cls=_Commands)

    @app.callback()
    def root() -> None:
        """So that the command keeps its name."""

    @app.command()
    def toy(
        context: typer.Context,
        *,
        took: float = 1.0,
        database_url: str = "",
        turns: int = 1,
        json_file: JsonFile = None,
        compare: CompareFile = None,
        fail_above: FailAbove = None,
    ) -> None:
        record = Record.begin(context, json_file, compare, fail_above, {"took": 0})
        record.end({"measured_s": took, "url": bool(database_url), "turns": turns})

    return lambda *arguments: CliRunner().invoke(app, ["toy", *map(str, arguments)])


@pytest.fixture
def kept(run, tmp_path):
    file = tmp_path / "deep" / "old.json"
    assert run("--database-url", "postgresql://me:secret@host/x", "--json", file).exit_code == 0
    return file


def test_a_record_tells_where_how_and_what_but_no_secret(kept):
    text = kept.read_text()
    record = json.loads(text)
    assert record["schema"] == 1
    assert record["command"] == "car bench toy --database-url …"
    assert record["setting"] == {"took": 0}
    assert record["machine"]["cores"] > 0
    assert record["measured_s"] == 1.0
    assert "secret" not in text


def test_what_got_slower_is_told_and_fails_only_where_that_was_asked_for(run, kept):
    assert "faster" in run("--took", 0.5, "--compare", kept).output
    slower = run("--took", 1.5, "--compare", kept)
    assert slower.exit_code == 0
    assert "slower" in slower.output
    assert run("--took", 1.5, "--compare", kept, "--fail-above", 1.6).exit_code == 0
    failed = run("--took", 1.5, "--compare", kept, "--fail-above", 1.25)
    assert failed.exit_code == 1
    assert "measured_s got 1.50 times as bad" in failed.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r | {"schema": 99}, "another schema: 99 there, 1 here"),
        (lambda r: r | {"bench": "crf"}, "another bench: crf there, toy here"),
        (lambda r: r | {"setting": {"took": 5}}, "took (5 there, 0 here)"),
        (lambda r: r | {"machine": r["machine"] | {"gpu": "a card"}}, "gpu (a card there, none here)"),
        (lambda r: r | {"machine": r["machine"] | {"cores": 4096}}, "cores (4096 there"),
        (lambda _: {"figures": 1}, "has no schema version"),
        (lambda _: [1], "has no schema version"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(run, kept, change, told):
    kept.write_text(json.dumps(change(json.loads(kept.read_text()))))
    refused = run("--compare", kept)
    assert refused.exit_code == 2
    assert told in refused.stderr
    assert refused.stderr.startswith("error:")


def test_a_file_that_is_none_is_named(run, tmp_path):
    refused = run("--compare", tmp_path / "none.json")
    assert refused.exit_code == 2
    assert "none.json cannot be read: No such file" in refused.stderr
    (tmp_path / "text.json").write_text("hello")
    assert "is no JSON" in run("--compare", tmp_path / "text.json").stderr
    assert "needs --compare" in run("--fail-above", 2).stderr


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(run, tmp_path):
    (tmp_path / "file").write_text("")
    refused = run("--json", tmp_path / "file" / "new.json")
    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr
