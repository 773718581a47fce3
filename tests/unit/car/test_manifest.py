"""Manifests are read by their form: lines, JSON lines, CSV with or without a header, rows of an S3 Inventory."""

import pytest

from car.errors import SourceError
from car.manifest import ManifestReader


def addresses(key, *lines):
    reader = ManifestReader.for_key(key)
    return [reader.read(line, number) for number, line in enumerate(lines, start=1)]


@pytest.mark.parametrize(
    ("key", "lines", "expected"),
    [
        ("list.txt", ["s3://bucket/a,b.jpg"], ["s3://bucket/a,b.jpg"]),
        ("list.csv", ["s3://bucket/a.jpg,cat"], ["s3://bucket/a.jpg"]),
        ("list.csv", ['7,"s3://bucket/a,b.jpg"', "", "# 1"], ["s3://bucket/a,b.jpg", None, None]),
        ("list.CSV", ["thumbnail,URI", "s3://bucket/t.jpg,s3://bucket/a.jpg"], [None, "s3://bucket/a.jpg"]),
        ("list.csv", ["file,class", "s3://bucket/a.jpg,cat"], [None, "s3://bucket/a.jpg"]),
        ("list.csv", ['"photos","a%20b/%C3%BC+1.jpg","17"', '"photos","a.txt","3"'], ["s3://photos/a b/ü 1.jpg", None]),
        ("output.manifest", ['{"source-ref": "s3://bucket/a.jpg", "class": 1}'], ["s3://bucket/a.jpg"]),
    ],
)
def test_a_manifest_is_read_by_its_form(key, lines, expected):
    assert addresses(key, *lines) == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["uri,class", ",cat"], "no address"),
        (["s3://bucket/a.jpg", "no,7"], "no address"),
        (["s3://bucket/a.jpg", '"s3://bucket/b.jpg'], "both quotes"),
        (["\x1f\x8b\x08"], "compressed"),
        (["PAR1"], "compressed"),
    ],
)
def test_a_row_without_an_address_is_refused_with_what_to_write(lines, message):
    with pytest.raises(SourceError, match=message):
        addresses("list.csv", *lines)
