"""Where the results of `car segment` go: JSON, masks, overlays, history strips. Places are tried before computing."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from PIL import Image

from car.rendering.history_image import StepCams, draw_history
from car.rendering.overlay import Pixels, draw_overlay
from car.rle import decode_coco
from car.segmentation import Mask, Segmentation
from cli.errors import OutputError, UsageError
from cli.output.file_names import distinct_names

STDOUT = "-"
_INDEX = "index.json"


@dataclass(frozen=True, eq=False)
class Result:
    """One file, segmented."""

    path: Path
    pixels: Pixels
    segmentation: Segmentation
    step_traces: tuple[StepCams, ...]
    document: Mapping[str, Any]
    """What --json writes of it."""


@dataclass(frozen=True)
class OutputPaths:
    """The paths as the user gave them; a trailing slash makes a folder."""

    json: str | None = None
    masks: str | None = None
    overlay: str | None = None
    history: str | None = None


@dataclass
class ResultFiles:
    """The places of all results of one run."""

    paths: OutputPaths
    names: dict[Path, str]
    """A distinct name for each picture, of which files and folders are made."""
    files: dict[str, str]
    """A distinct file name for each label."""
    _stream: IO[str] | None = field(default=None, init=False)

    @classmethod
    def of(cls, wishes: OutputPaths, pictures: list[Path], labels: Iterable[str]) -> "ResultFiles":
        """The places for these pictures and labels, tried and found good.

        Raises:
            WrongUse: a place cannot be written, would overwrite a picture or is asked for twice.

        """
        names = dict(zip(pictures, distinct_names(path.stem for path in pictures), strict=True))
        outputs = cls(wishes, names, mask_files(labels))
        outputs._check()
        return outputs

    @property
    def single(self) -> bool:
        return len(self.names) == 1

    def write(self, result: Result) -> None:
        """All that was asked for of one picture.

        Raises:
            OutputError: the disk is full, or the place was taken away.

        """
        with _writing(result.path):
            for wish, draw in self._pictures(result):
                place = self._place(wish, result.path, ".png", folder=not self.single)
                place.parent.mkdir(parents=True, exist_ok=True)
                draw().save(place, format="PNG")
            if self.paths.masks is not None:
                self._write_masks(result)
            if self.paths.json is not None:
                self._write_json(result)

    def close(self) -> None:
        if self._stream is not None and self._stream is not sys.stdout:
            self._stream.close()

    def _pictures(self, result: Result) -> list[tuple[str, Callable[[], Image.Image]]]:
        """What is to be drawn, by the wish that names its place."""
        wanted: list[tuple[str, Callable[[], Image.Image]]] = []
        if self.paths.overlay is not None:
            wanted.append((self.paths.overlay, lambda: draw_overlay(result.pixels, result.segmentation)))
        if self.paths.history is not None:
            wanted.append(
                (self.paths.history, lambda: draw_history(result.pixels, result.segmentation, result.step_traces))
            )
        return wanted

    def _write_masks(self, result: Result) -> None:
        head = {name: result.document[name] for name in ("image", "model_version")}
        write_masks(self._mask_folder(result.path), result.segmentation.masks, self.files, head)

    def _write_json(self, result: Result) -> None:
        line = json.dumps(result.document) + "\n"
        wish = self.paths.json or ""
        if wish != STDOUT and _is_folder(wish):
            self._place(wish, result.path, ".json", folder=True).write_text(line, encoding="utf-8")
            return
        if self._stream is None:
            self._stream = sys.stdout if wish == STDOUT else Path(wish).open("w", encoding="utf-8")  # noqa: SIM115 - until close
        self._stream.write(line)
        # A run that is stopped has what it did.
        self._stream.flush()

    def _place(self, wish: str, picture: Path, ending: str, *, folder: bool) -> Path:
        return Path(wish) / f"{self.names[picture]}{ending}" if folder or _is_folder(wish) else Path(wish)

    def _mask_folder(self, picture: Path) -> Path:
        base = Path(self.paths.masks or "")
        return base if self.single else base / self.names[picture]

    # Trying places

    def _check(self) -> None:
        for option, wish in (("--overlay", self.paths.overlay), ("--history", self.paths.history)):
            if wish is not None:
                many = not self.single or _is_folder(wish)
                if not many and Path(wish).suffix.lower() not in ("", ".png"):
                    raise UsageError(f"{option} {wish}: pictures are written as PNG; let the name end in .png")
                _try_folder(option, Path(wish)) if many else _try_file(option, Path(wish))
        if self.paths.masks is not None:
            _try_folder("--masks", Path(self.paths.masks))
        if self.paths.json is not None and self.paths.json != STDOUT:
            place = Path(self.paths.json)
            _try_folder("--json", place) if _is_folder(self.paths.json) else _try_file("--json", place)
        self._check_overwriting()

    def _check_overwriting(self) -> None:
        pictures = {path.resolve() for path in self.names}
        seen: dict[Path, str] = {}
        for option, place in self._planned():
            real = place.resolve()
            if real in pictures:
                raise UsageError(f"{option}: {place} is one of the pictures to be segmented, and would be overwritten")
            if real in seen and place.suffix:
                raise UsageError(f"{option} and {seen[real]} would both write {place}")
            seen[real] = option

    def _planned(self) -> Iterable[tuple[str, Path]]:
        """Every file that may be written, with the option that asks for it."""
        wishes = self.paths
        for option, wish in (("--overlay", wishes.overlay), ("--history", wishes.history)):
            for picture in self.names if wish is not None else ():
                yield option, self._place(wish or "", picture, ".png", folder=not self.single)
        if wishes.json is not None and wishes.json != STDOUT:
            if _is_folder(wishes.json):
                yield from (
                    ("--json", self._place(wishes.json, picture, ".json", folder=True)) for picture in self.names
                )
            else:
                yield "--json", Path(wishes.json)
        for picture in self.names if wishes.masks is not None else ():
            yield from (("--masks", self._mask_folder(picture) / file) for file in (*self.files.values(), _INDEX))


def mask_files(labels: Iterable[str]) -> dict[str, str]:
    """A distinct file name for each label."""
    words = list(labels)
    return dict(zip(words, (f"{name}.png" for name in distinct_names(words)), strict=True))


def write_masks(folder: Path, masks: Iterable[Mask], files: Mapping[str, str], head: Mapping[str, Any]) -> None:
    """One PNG a mask and an index.json, which begins with `head`."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for mask in masks:
        Image.fromarray(decode_coco(mask.rle)).convert("L").save(folder / files[mask.label])
        entry = {"label": mask.label, "file": files[mask.label], "score": mask.score, "area": mask.area}
        listed.append(entry | {"bbox": list(mask.bbox), "source": str(mask.source)})
    index = {**head, "masks": listed}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _is_folder(wish: str) -> bool:
    return wish.endswith(("/", os.sep)) or Path(wish).is_dir()


def _try_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".car-{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UsageError(f"{option} {folder}: this folder cannot be written ({error.strerror})") from None


def _try_file(option: str, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise UsageError(f"{option} {file}: this is a folder")
        if file.is_file():
            file.open("ab").close()
        elif not file.exists():
            file.touch()
            file.unlink()
    except OSError as error:
        raise UsageError(f"{option} {file}: this file cannot be written ({error.strerror})") from None


@contextmanager
def _writing(path: Path) -> Any:  # noqa: ANN401 - a context manager
    try:
        yield
    except BrokenPipeError:
        raise  # who reads our output has had enough: no fault of this file
    except OSError as error:
        raise OutputError(f"the results of {path} could not be written: {error}") from error
