"""`python -m benchmarks compare`: which figures are compared, in which direction, and what is refused."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.compare import measurements

RUN = {"schema": 1, "bench": "toy", "command": "", "setting": {}, "machine": {"cores": 2, "load_before": 1.0}}


@pytest.mark.parametrize(
    ("path", "value", "measured"),
    [
        ("ours_s", 2.0, ("second", 2.0)),
        ("stages/crf/seconds", 2.0, ("second", 2.0)),
        ("seconds/lattice: points", 2.0, ("second", 2.0)),
        ("claim_ms_per_item/32", 2.0, ("second", 0.002)),
        ("images_per_s", 4.0, ("second", 0.25)),
        ("memory/new/items_per_second", 4.0, ("second", 0.25)),
        ("peak_rss/encode", 512, ("byte", 512)),
        ("redis_growth_mb", 2, ("byte", 2**21)),
        # Baselines, floors, ratios and counts.
        ("official_s", 2.0, None),
        ("seconds/pydensecrf", 2.0, None),
        ("stages/crf/floor_seconds", 2.0, None),
        ("peaks/float32/peak_bytes_per_s", 2.0, None),
        ("small_ms/beside/floor/p99", 2.0, None),
        ("ratio_official", 2.0, None),
        ("counts/ours/crops_encoded", 2.0, None),
        ("machine/memory_gib", 2.0, None),
        ("ours_s", 0.0, None),
        ("ours_s", None, None),
    ],
)
def test_a_figures_name_says_what_it_measures(path, value, measured):
    document = value
    for part in reversed(path.split("/")):
        document = {part: document}
    assert list(measurements(document).values()) == ([measured] if measured else [])


def test_entries_of_a_list_go_by_the_name_of_their_filter():
    figures = measurements({"filters": [{"filter": "label", "p50_ms": 2.0}, {"filter": "job", "p50_ms": 3.0}]})
    assert figures.keys() == {"filters / label / p50_ms", "filters / job / p50_ms"}


@pytest.fixture
def compare(tmp_path, capfd):
    def run(old, new, *options):
        files = []
        for name, document in (("before", old), ("after", new)):
            files.append(tmp_path / f"{name}.json")
            files[-1].write_text(document if isinstance(document, str) else json.dumps(document))
        done = CliRunner().invoke(app, ["compare", *map(str, files), *options], env={"COLUMNS": "200"})
        return done, capfd.readouterr().out

    return run


def test_pyperf_shows_what_got_slower(compare):
    done, table = compare(RUN | {"ours_s": 1.0, "text_s": 1.0}, RUN | {"ours_s": 2.0, "text_s": 1.05})
    assert done.exit_code == 0, done.output
    assert "2.00x slower" in table
    assert "toy / text_s" in table.partition("hidden")[2]  # within a tenth
    assert not done.stderr


def test_other_conditions_are_named(compare):
    done, _ = compare(RUN | {"a_s": 1.0}, RUN | {"a_s": 1.0, "setting": {"turns": 3}, "machine": {"cores": 4}})
    assert done.exit_code == 0, done.output
    assert "toy: another setting: {} in the old run, {'turns': 3} in the new one" in done.stderr
    assert "toy: another cores: 2 in the old run, 4 in the new one" in done.stderr


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("hello", "is not JSON"),
        ({"a_s": 1.0}, "was not written by a benchmark"),
        ([1], "was not written by a benchmark"),
        (RUN | {"b_s": 1.0}, "no time and no memory in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(compare, old, message):
    done, _ = compare(old, RUN | {"a_s": 1.0})
    assert done.exit_code == 2
    assert message in done.stderr


def test_folders_are_compared_file_by_file(tmp_path, capfd):
    for folder, seconds in (("old", 1.0), ("new", 4.0)):
        (tmp_path / folder).mkdir()
        for name in ("segmenter", "segmenter-bfloat16"):
            (tmp_path / folder / f"{name}.json").write_text(json.dumps(RUN | {"ours_s": seconds}))
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "old"), str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert capfd.readouterr().out.count("4.00x slower") == 3  # and their mean


def test_a_missing_file_is_named(tmp_path):
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "none.json"), str(tmp_path)])
    assert done.exit_code == 2
    assert "none.json cannot be read: No such file" in done.stderr
