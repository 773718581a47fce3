"""Sources are read as people write them, and refused with what they should look like."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car.bulk_source import MAX_GIVEN, MAX_URI, BulkSource, SourceKind, manifest_line, split_s3, truncate_bytes
from car.errors import SourceError


@pytest.mark.parametrize(
    ("source", "kind", "key", "prefix"),
    [
        ("s3://bucket", SourceKind.PREFIX, "", ""),
        ("s3://bucket/", SourceKind.PREFIX, "", ""),
        (" s3://bucket/a b/ ", SourceKind.PREFIX, "a b/", "a b/"),
        ("s3://bucket/a.jpg", SourceKind.PREFIX, "a.jpg", "a.jpg"),
        ("s3://bucket/a/**/*.jpg", SourceKind.GLOB, "a/**/*.jpg", "a/"),
        ("s3://bucket/a?.jpg", SourceKind.GLOB, "a?.jpg", "a"),
        ("s3://bucket/x{a,b}", SourceKind.GLOB, "x{a,b}", "x"),
        ("s3://bucket/x[ab]", SourceKind.GLOB, "x[ab]", "x"),
        ("s3://bucket/list.TXT", SourceKind.MANIFEST, "list.TXT", "list.TXT"),
        ("s3://bucket/list.jsonl", SourceKind.MANIFEST, "list.jsonl", "list.jsonl"),
        ({"manifest": "s3://bucket/list"}, SourceKind.MANIFEST, "list", "list"),
        ({"prefix": "s3://bucket/[a]{b}*?/"}, SourceKind.PREFIX, "[a]{b}*?/", "[a]{b}*?/"),
        ({"prefix": "s3://bucket/list.txt"}, SourceKind.PREFIX, "list.txt", "list.txt"),
    ],
)
def test_a_source_is_what_it_looks_like(source, kind, key, prefix):
    found = BulkSource.parse(source)
    assert (found.kind, found.bucket, found.key, found.prefix) == (kind, "bucket", key, prefix)
    assert BulkSource.from_json(found.to_json()) == found
    assert str(found) == f"s3://bucket/{key}"


def test_addresses_given_one_by_one_are_kept_in_order():
    found = BulkSource.parse(["s3://b1/a.jpg", "nonsense", "s3://b2/b.jpg"])
    assert found.uris == ("s3://b1/a.jpg", "nonsense", "s3://b2/b.jpg")  # nonsense fails alone, when listed
    assert BulkSource.from_json(found.to_json()) == found
    assert str(found) == "3 addresses"


@pytest.mark.parametrize(
    "source",
    [
        None,
        7,
        "",
        "bucket/a.jpg",
        "http://bucket/a.jpg",
        "S3://bucket/a.jpg",
        "s3://",
        "s3:///a.jpg",
        "s3://b/a.jpg",
        "s3://buck et/a.jpg",
        "s3://bucket\n/a.jpg",
        "s3://-bucket/a.jpg",
        "s3://bucket/nul\0",
        "s3://bucket/half\ud800",
        "s3://bucket/" + "x" * MAX_URI,
        "s3://bucket/" + "猫" * (MAX_URI // 2),
        "s3://bucket/[a",
        "s3://bucket/{a,b",
        "s3://bucket/[z-a]",
        "s3://bucket/" + "{" * 900,
        "s3://bucket/" + "{" * 9 + "a" + "}" * 9,
        "s3://bucket/" + "*a" * 300,
        [],
        ["s3://bucket/a.jpg", 7],
        ["s3://bucket/nul\0"],
        ["s3://bucket/half\udfff"],
        ["s3://bucket/a.jpg"] * (MAX_GIVEN + 1),
        {},
        {"manifest": 7},
        {"manifest": "s3://bucket/"},
        {"manifest": "s3://bucket/list", "more": 1},
        {"prefix": "bucket/x"},
        {"prefix": "s3://bucket/x", "manifest": "s3://bucket/list"},
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_anything_else_is_refused_in_a_short_sentence(source):
    with pytest.raises(SourceError) as refused:
        BulkSource.parse(source)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


def test_a_prefix_and_a_glob_for_everything_match_pictures_alone():
    for source in ("s3://bucket/in/", "s3://bucket/**", "s3://bucket/in/*"):
        assert BulkSource.parse(source).matches(["in/a.JPEG", "in/a.txt"]) == [True, False]
    assert BulkSource.parse("s3://bucket/*.raw").matches(["a.raw"]) == [True]


@given(st.text(st.sampled_from("ab/*?[]{},!^-\\.é "), max_size=14), st.text(st.sampled_from("ab/-."), max_size=8))
def test_every_glob_is_read_or_refused_and_its_prefix_begins_what_it_matches(glob, key):
    try:
        source = BulkSource.parse(f"s3://bucket/{glob}*")
    except SourceError:
        return
    assert source.kind is SourceKind.GLOB
    if source.matches([key]) == [True]:
        assert key.startswith(source.prefix)


@pytest.mark.parametrize(
    ("line", "uri"),
    [
        ("", None),
        ("  \r\n", None),
        ("# s3://bucket/a.jpg", None),
        ("\ufeff", None),
        ("\ufeff# comment", None),
        ("s3://bucket/a.jpg\r\n", "s3://bucket/a.jpg"),
        ("\ufeffs3://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("  s3://bucket/a b.jpg ", "s3://bucket/a b.jpg"),
        ('{"uri": "s3://bucket/a.jpg "}', "s3://bucket/a.jpg "),
        ('{"image": "s3://bucket/a.jpg", "more": [1]}', "s3://bucket/a.jpg"),
        ("https://host.example/a b.jpg?x=1\r\n", "https://host.example/a b.jpg?x=1"),
        ("HTTP://127.0.0.1:8080/a.jpg", "HTTP://127.0.0.1:8080/a.jpg"),  # whether it may be asked is not said here
        ('{"uri": "https://host.example/a.jpg"}', "https://host.example/a.jpg"),
    ],
)
def test_a_line_of_a_manifest_is_an_address_or_nothing(line, uri):
    assert manifest_line(line) == uri


@pytest.mark.parametrize(
    "line",
    [
        "a.jpg",
        "s3://bucket",
        "s3://bucket/folder/",
        "http://",
        "https:///a.jpg",
        "http://?a.jpg",
        "https://host.example/\x1b[2J.jpg",
        "https://host.example/" + "x" * MAX_URI,
        "ftp://host.example/a.jpg",
        "file:///a.jpg",
        "//host.example/a.jpg",
        "{",
        '{"uri": 7}',
        '{"other": "s3://bucket/a.jpg"}',
        '{"uri": "s3://bucket/\\u0000"}',
        '{"uri": "s3://bucket/\\ud800"}',
        '{"uri": ' + "9" * 5_000 + "}",
        '{"uri":' * 20_000,
        '{"uri": ' + "[" * 50_000,
    ],
    ids=lambda line: line[:24],
)
def test_a_line_without_an_address_is_refused_and_breaks_nothing(line):
    with pytest.raises(SourceError) as refused:
        manifest_line(line)
    assert len(str(refused.value)) < 250


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda line: line.decode("utf-8", "replace"))))
def test_every_line_is_an_address_nothing_or_refused(line):
    for whole in (line, "s3://bucket/" + line, '{"uri": "' + line, '{"uri": "s3://bucket/' + line + '"}'):
        try:
            uri = manifest_line(whole)
        except SourceError:
            continue
        assert uri is None or uri[:8].lower().startswith(("http://", "https://")) or split_s3(uri)[1]


@given(st.text(max_size=40), st.integers(0, 60))
def test_a_text_is_cut_to_bytes_at_the_end_of_a_letter(text, most):
    short = truncate_bytes(text, most)
    assert len(short.encode()) <= most
    assert re.sub("[\ud800-\udfff]", "?", text).startswith(short)
