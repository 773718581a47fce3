"""The request of `car jobs create`."""

from pathlib import Path
from typing import Any

from car.errors import SourceError
from car.manifest import ManifestReader
from car.vocabulary import Label
from cli.errors import UsageError
from cli.options import background_of, labels_of


def vocabulary_request(
    labels: str | None, labels_file: Path | None, vocabulary: str | None, background: str | None
) -> dict[str, Any]:
    """Return the part of the request with the labels, from exactly one of the three options."""
    wish: dict[str, Any] = {} if background is None else {"background": background_of(background)}
    if vocabulary is not None:
        if labels is not None or labels_file is not None:
            raise UsageError("give --vocabulary, or --labels, or --labels-file; not two of them")
        return wish | {"vocabulary": vocabulary}
    return wish | {"labels": [_label(one) for one in labels_of(labels, labels_file)]}


def _label(label: Label) -> str | dict[str, Any]:
    plain = label.prompts == (label.name,)
    return label.name if plain else {"name": label.name, "prompts": list(label.prompts)}


def read_manifest(file: Path) -> list[str]:
    """Return the addresses of a local manifest.

    Raises:
        UsageError: it cannot be read, is empty, or a line is no address; the message names it.

    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"--manifest {file}: this is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"--manifest {file}: this file cannot be read ({error.strerror})") from None
    addresses = []
    reader = ManifestReader.for_key(file.name)
    for number, line in enumerate(lines, start=1):
        try:
            address = reader.read(line, number)
        except SourceError as error:
            raise UsageError(f"--manifest {file}, line {number}: {error}") from None
        addresses += [address] if address else []
    if not addresses:
        raise UsageError(f"--manifest {file}: it holds no address; give one a line, such as s3://bucket/picture.jpg")
    return addresses
