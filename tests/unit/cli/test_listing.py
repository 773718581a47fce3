"""Lists: three formats, and a line on stderr about what is missing."""

import json

import pytest
from rich.text import Text

from cli.options import OutputFormat
from cli.output.listing import print_list


def rows(limit):
    return ({"id": str(number)} for number in range(min(limit, 30)))


def table(entries):
    return Text("\n".join(entry["id"] for entry in entries))


def printed(capsys, source=rows, **options):
    print_list(source, table, **{"output": OutputFormat.TABLE, "limit": 20} | options)
    return capsys.readouterr()


@pytest.mark.parametrize("output", OutputFormat)
def test_a_list_that_goes_on_says_so_on_stderr(capsys, output):
    assert printed(capsys, output=output).err == "20 shown; --limit or --all\n"


@pytest.mark.parametrize("options", [{"limit": 30}, {"show_all": True}])
def test_a_complete_list_says_nothing(capsys, options):
    captured = printed(capsys, **options)
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 30


def test_json_is_one_array_and_jsonl_one_document_per_line(capsys):
    array = json.loads(printed(capsys, output=OutputFormat.JSON).out)
    lines = printed(capsys, output=OutputFormat.JSONL).out.splitlines()
    assert array == [json.loads(line) for line in lines] == list(rows(20))


@pytest.mark.parametrize(("output", "out"), [("table", ""), ("json", "[]\n"), ("jsonl", "")])
def test_an_empty_list_says_that_nothing_was_found(capsys, output, out):
    captured = printed(capsys, source=lambda _: [], output=OutputFormat(output))
    assert (captured.out, captured.err) == (out, "nothing found\n")
