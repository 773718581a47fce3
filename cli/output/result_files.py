"""The result files of `car segment`: JSON, masks, overlays, history images. Paths are checked before computing."""

import itertools
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from car.rendering.history_image import StepCams, draw_history
from car.rendering.overlay import Pixels, draw_overlay
from car.rle import decode_coco
from car.segmentation import Mask, Segmentation
from cli.errors import OutputError, UsageError

STDOUT = "-"
_INDEX = "index.json"
_MAX_NAME_BYTES = 120
_DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""File names that Windows reserves."""
_SUFFIXES = {"--overlay": ".png", "--history": ".png", "--masks": "", "--json": ".json"}


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one file."""

    path: Path
    pixels: Pixels
    segmentation: Segmentation
    step_traces: tuple[StepCams, ...]
    document: Mapping[str, Any]
    """The JSON document of --json."""
    note: str = ""
    """About the models, for tables and overlays."""


class ResultFiles:
    """Writes the results of one run."""

    def __init__(self, targets: Mapping[str, str | None], images: list[Path], labels: Iterable[str]) -> None:
        """Name the files for these images and labels, create their folders, and check that they can be written.

        `targets` has the paths as the user gave them, by option; a trailing slash makes a folder.

        Raises:
            UsageError: a path cannot be written, would overwrite an image, or is given twice.

        """
        self.targets = {option: target for option, target in targets.items() if target is not None}
        self._names = dict(zip(images, distinct_names(path.stem for path in images), strict=True))
        self._mask_names = mask_file_names(labels)
        self._stream: IO[str] | None = None
        self._check()

    def write(self, result: Result) -> None:
        """Write everything that was requested for one image.

        Raises:
            OutputError: the disk is full, or a folder was removed meanwhile.

        """
        try:
            if "--overlay" in self.targets:
                self._save("--overlay", result.path, draw_overlay(result.pixels, result.segmentation, result.note))
            if "--history" in self.targets:
                drawing = draw_history(result.pixels, result.segmentation, result.step_traces)
                self._save("--history", result.path, drawing)
            if "--masks" in self.targets:
                head = {name: result.document[name] for name in ("image", "model_version")}
                write_masks(self._file("--masks", result.path), result.segmentation.masks, self._mask_names, head)
            if "--json" in self.targets:
                self._write_json(result)
        except BrokenPipeError:
            raise  # the reader of stdout is gone: no fault of this file
        except OSError as error:
            raise OutputError(f"the results of {result.path} cannot be written: {error}") from error

    def close(self) -> None:
        if self._stream is not None and self._stream is not sys.stdout:
            self._stream.close()

    def _save(self, option: str, image: Path, drawing: Image.Image) -> None:
        file = self._file(option, image)
        file.parent.mkdir(parents=True, exist_ok=True)
        drawing.save(file, format="PNG")

    def _write_json(self, result: Result) -> None:
        line = json.dumps(result.document) + "\n"
        file = self._file("--json", result.path)
        if self.targets["--json"] == STDOUT:
            self._stream = sys.stdout
        elif file != Path(self.targets["--json"]):  # a folder: one document per file
            file.write_text(line, encoding="utf-8")
            return
        elif self._stream is None:
            self._stream = file.open("w", encoding="utf-8")
        self._stream.write(line)
        self._stream.flush()  # an interrupted run keeps what it has done

    def _file(self, option: str, image: Path) -> Path:
        """Return the file of one image; for --masks its folder."""
        target = self.targets[option]
        is_folder = len(self._names) > 1 and option != "--json"
        is_folder |= option != "--masks" and _is_folder(target)
        return Path(target) / f"{self._names[image]}{_SUFFIXES[option]}" if is_folder else Path(target)

    def _check(self) -> None:
        """Create the folders, and check that every file can be written and written once."""
        targets = {option: target for option, target in self.targets.items() if target != STDOUT}
        for option, target in targets.items():
            is_folder = option == "--masks" or self._file(option, next(iter(self._names))) != Path(target)
            if _SUFFIXES[option] == ".png" and not is_folder and Path(target).suffix.lower() not in ("", ".png"):
                raise UsageError(f"{option} {target}: images are written as PNG; use a name that ends in .png")
            _check_writable(option, Path(target), is_folder=is_folder)
        # Path.resolve fails for a loop of links.
        images = {os.path.realpath(path) for path in self._names}
        option_of: dict[str, str] = {}
        for option, image in itertools.product(targets, self._names):
            file = self._file(option, image)
            masks = (file / name for name in (*self._mask_names.values(), _INDEX))
            for written in masks if option == "--masks" else [file]:
                path = os.path.realpath(written)
                if path in images:
                    raise UsageError(f"{option}: {written} is one of the input images and would be overwritten")
                if option_of.setdefault(path, option) != option and written.suffix:
                    raise UsageError(f"{option} and {option_of[path]} would both write {written}")


def safe_name(word: str) -> str:
    """Replace what a file name cannot hold by `-`; letters and digits of any script, `.`, `_` and `-` stay."""
    plain = unicodedata.normalize("NFC", word)
    name = re.sub(r"[^\w.-]+", "-", plain.encode("utf-8", "replace").decode()).strip(".-")
    name = name.encode()[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
    return f"_{name}" if _DEVICE_NAMES.fullmatch(name) else name or "_"


def distinct_names(words: Iterable[str]) -> list[str]:
    """Return a safe name for each word, in order; names equal without case get -2, -3, ..."""
    used: set[str] = set()
    names = []
    for word in words:
        stem = name = safe_name(word)
        number = 2
        while name.casefold() in used:
            name = f"{stem}-{number}"
            number += 1
        used.add(name.casefold())
        names.append(name)
    return names


def mask_file_names(labels: Iterable[str]) -> dict[str, str]:
    """Return a distinct file name for each label."""
    labels = list(labels)
    return dict(zip(labels, (f"{name}.png" for name in distinct_names(labels)), strict=True))


def write_masks(folder: Path, masks: Iterable[Mask], names: Mapping[str, str], head: Mapping[str, Any]) -> None:
    """Write one PNG per mask and an index.json that begins with `head`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for mask in masks:
        Image.fromarray(decode_coco(mask.rle)).convert("L").save(folder / names[mask.label])
        entry = {"label": mask.label, "file": names[mask.label], "score": mask.score, "area": mask.area}
        entries.append(entry | {"bbox": list(mask.bbox), "source": str(mask.source)})
    index = {**head, "masks": entries}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _is_folder(target: str) -> bool:
    return target.endswith(("/", os.sep)) or Path(target).is_dir()


def _check_writable(option: str, path: Path, *, is_folder: bool) -> None:
    """Create the folder of `path` and check that it can be written; leave no file behind.

    Raises:
        UsageError: it cannot be written.

    """
    folder = path if is_folder else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_folder and path.exists():
            if path.is_file():
                path.open("ab").close()
            return
        probe = folder / f".car-{os.getpid()}" if is_folder else path
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written ({error.strerror})") from None
