"""Which images a path stands for, and the errors of paths without images."""

import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from worker.errors import ImageError, ImageMissingError, ImageTooLargeError, ImageUnsupportedError
from worker.images import ImageLimits, describe_passed_over, find_images, open_image


@pytest.fixture
def folder(tmp_path):
    image = Image.fromarray(np.zeros((4, 5, 3), np.uint8))
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("z.png", "a.PNG", "b/c.jpeg", "b/deep/d.webp", ".hidden/e.png", ".f.png"):
        image.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_stands_for_the_images_below_it_in_order(folder):
    names = [path.relative_to(folder).as_posix() for path in find_images([folder])]
    assert names == ["a.PNG", "b/c.jpeg", "b/deep/d.webp", "z.png"]


def test_files_are_yielded_as_given_and_once_each(folder):
    paths = [folder / "notes.txt", folder / "z.png", folder / "b", folder / "z.png", folder / "b" / "c.jpeg"]
    assert list(find_images(paths)) == [
        folder / "notes.txt",
        folder / "z.png",
        folder / "b" / "c.jpeg",
        folder / "b" / "deep" / "d.webp",
    ]


def test_circular_links_end(folder):
    (folder / "b" / "again").symlink_to(folder, target_is_directory=True)
    assert len(list(find_images([folder]))) == 4


def test_what_a_folder_has_besides_images_is_counted_by_suffix(folder):
    for name in ("1.heic", "b/2.HEIC", "3.svg", "Makefile"):
        (folder / name).write_bytes(b"x")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    passed_over = Counter()
    assert len(list(find_images([folder], passed_over))) == 4
    assert passed_over == {".heic": 2, ".svg": 1, ".txt": 1, "without a suffix": 1, "broken links": 1}
    assert describe_passed_over(passed_over).startswith("6 files passed over: 2 .heic, 1 ")


def test_heic_is_refused_with_how_to_convert_it(folder):
    (folder / "photo.png").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    with pytest.raises(ImageUnsupportedError, match=r"photo.png is HEIC.*heif-convert"):
        open_image(folder / "photo.png")


def test_a_folder_without_images_lists_the_suffixes(tmp_path):
    with pytest.raises(ImageMissingError, match=r"has no images.*\.jpeg"):
        list(find_images([tmp_path]))


@pytest.mark.parametrize("name", ["nowhere.jpg", "nowhere/x.jpg", "a\0b.jpg", "x" * 5000])
def test_a_path_to_nothing_is_missing(tmp_path, name):
    for read in (open_image, lambda path: list(find_images([path]))):
        with pytest.raises(ImageMissingError, match="check the path"):
            read(tmp_path / name)


def test_a_folder_is_not_an_image(folder):
    with pytest.raises(ImageUnsupportedError, match="is a folder"):
        open_image(folder)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageUnsupportedError, match="not a regular file"):
        open_image(tmp_path / "pipe.jpg")


def test_a_large_file_is_refused(folder):
    with pytest.raises(ImageTooLargeError, match="MiB"):
        open_image(folder / "z.png", ImageLimits(max_bytes=20))


def test_an_error_names_its_file_on_one_line(tmp_path):
    path = tmp_path / "line\nbreak é.jpg"
    path.write_bytes(b"<html>")
    with pytest.raises(ImageError) as refused:
        open_image(path)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}/line\\nbreak é.jpg is HTML")
    assert "\n" not in message


def test_a_file_opens_as_its_bytes_do(folder):
    from_file, from_bytes = open_image(folder / "z.png"), open_image((folder / "z.png").read_bytes())
    assert np.array_equal(from_file.pixels, from_bytes.pixels)
    assert (from_file.sha256, from_file.format) == (from_bytes.sha256, "PNG")
