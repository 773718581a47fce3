"""Read the lines of manifests: plain addresses, JSON lines, and CSV with or without a header."""

import csv
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote_plus

from car.bulk_source import SUFFIXES, check_address, is_bucket, manifest_line
from car.errors import SourceError

_COLUMNS = ("uri", "url", "s3_uri", "image", "image_url", "image_uri", "source-ref", "address")
"""Headers of columns with addresses, the first that is there."""
_SCHEMES = ("s3://", "http://", "https://")
_COMPRESSED = ("\x1f", "PAR1", "ORC")
"""The first characters of gzip, Parquet and ORC."""


@dataclass
class ManifestReader:
    """Reads one manifest, line by line. A CSV has the address in the column of a known name, else in the first field
    that is an address; rows of an S3 Inventory have bucket and encoded key, and those of other files than images are
    passed over.
    """

    is_csv: bool
    column: int | None = None
    """The column that the header names."""

    @classmethod
    def for_key(cls, key: str, column: int | None = None) -> Self:
        return cls(key.lower().endswith(".csv"), column)

    def read(self, line: str, number: int) -> str | None:
        """Return the address in a line, or None if it has none by right: an empty line, a comment, a header.

        Raises:
            SourceError: the line has no address of an image; the message says what it should look like.

        """
        if number == 1 and line.startswith(_COMPRESSED):
            raise SourceError("the manifest is compressed or binary; give it as text (gunzip it, or export it as CSV)")
        stripped = line.strip().removeprefix("\N{BYTE ORDER MARK}").strip()
        if not self.is_csv or not stripped or stripped.startswith(("#", "{")):
            return manifest_line(line)
        try:
            [fields] = csv.reader([stripped], strict=True)
        except (csv.Error, ValueError):
            raise SourceError('the CSV row cannot be read; write "s3://bucket/image.jpg",… with both quotes') from None
        if number == 1 and not any(field.lower().startswith(_SCHEMES) for field in fields):
            names = [field.strip().lower() for field in fields]
            self.column = next((names.index(name) for name in _COLUMNS if name in names), None)
            return None if self.column is not None else _inventory_uri(fields)
        return self._address(fields)

    def _address(self, fields: list[str]) -> str | None:
        if self.column is not None:
            uri = fields[self.column].strip() if self.column < len(fields) else ""
        else:
            uri = next((field.strip() for field in fields if field.strip().lower().startswith(_SCHEMES)), "")
            if not uri and len(fields) > 1 and is_bucket(fields[0]):
                return _inventory_uri(fields)
        if not uri:
            raise SourceError("the CSV row has no address; write s3://bucket/folder/image.jpg in one of its columns")
        check_address(uri)
        return uri


def _inventory_uri(fields: list[str]) -> str | None:
    """Return the address of an S3 Inventory's row, None if it is a header or not of an image."""
    key = unquote_plus(fields[1]) if len(fields) > 1 and is_bucket(fields[0]) else ""
    if not key.lower().endswith(SUFFIXES):
        return None
    uri = f"s3://{fields[0]}/{key}"
    check_address(uri)
    return uri
