"""The C kernels compared with numpy, and how they get into a wheel."""

import ctypes
import sys

import numpy as np
import pytest
from hatchling.bridge.app import Application

import hatch_build
from worker.segmenter.crf import compiled_lattice, permutohedral
from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.compiled_arrays import CompiledArrays, load

NUMPY = Arrays()


def table(rows: int, scale: float) -> np.ndarray:
    rng = np.random.default_rng(rows)
    values: np.ndarray = (rng.normal(size=(rows, 4)) * scale).astype(np.float32)
    return values


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("rows", "spread"), [(1, 1.0), (7, 0.0), (300, 0.3), (300, 8.0)])
def test_a_lattice_equals_that_of_numpy(compiled: CompiledArrays, d: int, rows: int, spread: float) -> None:
    """Few points that many pixels share, and pixels each with points of its own."""
    rng = np.random.default_rng(d)
    features = list(rng.normal(size=(d, rows)).astype(np.float32) * np.float32(spread))
    lattice, plain = compiled_lattice.build(compiled, features, 3.0), permutohedral.build(NUMPY, features, 3.0)
    assert lattice.points == plain.points
    assert (lattice.order == plain.order).all()
    values = table(rows, 1.0)
    expected = plain.filter(values)
    np.testing.assert_allclose(lattice.filter(values), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lattice.filter(values, onto=values.copy()), expected + values, rtol=1e-5, atol=1e-5)
    order = rng.permutation(rows)
    reordered = compiled_lattice.build(compiled, features, 3.0, order)
    back, forth = np.argsort(order), np.argsort(lattice.order)
    np.testing.assert_allclose(
        reordered.filter(values[order])[back], lattice.filter(values[lattice.order])[forth], rtol=1e-5, atol=1e-5
    )


def test_neighbours_are_mutual(compiled: CompiledArrays) -> None:
    features = list(np.random.default_rng(0).normal(size=(5, 400)).astype(np.float32))
    lattice = compiled_lattice.build(compiled, features, 1.0)
    for pairs in lattice.pairs:
        after, before = pairs.T
        has = np.flatnonzero(after < lattice.points)
        assert len(has)
        assert (before[after[has]] == has).all()
        assert (before < lattice.points).sum() == len(has)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_mean_field_operations_equal_those_of_numpy(compiled: CompiledArrays, scale: float) -> None:
    energies, unary, column = table(1000, scale).clip(-85, 80), table(999, scale), table(1000, 1.0)[:, :1].copy()
    unary = np.vstack([unary, unary[:1]])

    def run(name: str, arrays: Arrays, *operands: np.ndarray) -> list[np.ndarray]:
        values = [energies.copy(), *(operand.copy() for operand in operands)]
        result = getattr(arrays, name)(*values)
        return [*values[1:], values[0] if result is None else result]

    total = np.abs(column) + 1
    for name, operands in {
        "exp_and_sum": [total],
        "divide_rows": [total],
        "sigmoid": [],
        "add_unary_multi": [unary, column],
        "add_unary_binary": [unary, column],
    }.items():
        for actual, expected in zip(run(name, compiled, *operands), run(name, NUMPY, *operands), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-5, err_msg=name)


def test_columns_without_a_label_stay_zero(compiled: CompiledArrays) -> None:
    values, total = np.full((1, 4), -1e30, np.float32), np.zeros((1, 1), np.float32)
    assert not compiled.sigmoid(values.copy()).any()
    compiled.exp_and_sum(values, total)
    assert not values.any()
    assert not total.any()


def test_arrays_of_another_dtype_or_layout_are_rejected(compiled: CompiledArrays) -> None:
    for wrong in (np.zeros((8, 4)), np.zeros((8, 8), np.float32)[:, ::2]):
        with pytest.raises(ctypes.ArgumentError):
            compiled.sigmoid(wrong)


def test_missing_or_broken_kernels_are_not_loaded(tmp_path) -> None:
    assert load(str(tmp_path / "lattice-00000000.so")) is None
    (tmp_path / "broken.so").write_bytes(b"no library")
    assert load(str(tmp_path / "broken.so")) is None


def hook(folder) -> hatch_build.KernelsHook:
    return hatch_build.KernelsHook(str(folder), {}, None, None, str(folder), "wheel", Application())


@pytest.mark.usefixtures("compiled")  # there is a compiler
def test_a_wheel_contains_the_kernels_of_its_source_only(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hatch_build, "SOURCE", tmp_path / "lattice.c")
    built = {}
    for text in ("int one(void) { return 1; }", "int two(void) { return 2; }"):
        (tmp_path / "lattice.c").write_text(text)
        hook(tmp_path).initialize("standard", built)
    (library,) = tmp_path.glob("lattice-*.so")
    assert ctypes.CDLL(str(library)).two() == 2
    assert not built["pure_python"]
    assert built["tag"].startswith("py3-none-manylinux_" if sys.platform == "linux" else "py3-none-")


def test_a_wheel_is_built_without_a_compiler_too(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    built = {}
    hook(tmp_path).initialize("standard", built)
    assert built == {}
    assert "scipy" in "".join(capsys.readouterr())
