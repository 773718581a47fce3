"""The kernels in C beside the same in numpy, and how they come into a wheel."""

import ctypes

import numpy as np
import pytest
from hatchling.bridge.app import Application

import hatch_build
from worker.segmenter.crf import compiled_lattice, permutohedral
from worker.segmenter.crf.arrays import HostArrays
from worker.segmenter.crf.compiled_arrays import CompiledArrays, load

HOST = HostArrays()


def table(rows: int, scale: float) -> np.ndarray:
    rng = np.random.default_rng(rows)
    made: np.ndarray = (rng.normal(size=(rows, 4)) * scale).astype(np.float32)
    return made


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("rows", "spread"), [(1, 1.0), (7, 0.0), (300, 0.3), (300, 8.0)])
def test_a_lattice_is_the_one_of_numpy(compiled: CompiledArrays, d: int, rows: int, spread: float) -> None:
    """Of few points that many pixels share, and of pixels each with points of its own."""
    rng = np.random.default_rng(d)
    features = list(rng.normal(size=(d, rows)).astype(np.float32) * np.float32(spread))
    ours, plain = compiled_lattice.build(compiled, features, 3.0), permutohedral.build(HOST, features, 3.0)
    assert ours.points == plain.points
    assert (ours.order == plain.order).all()
    values = table(rows, 1.0)
    expected = plain.filter(values)
    np.testing.assert_allclose(ours.filter(values), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.filter(values, onto=values.copy()), expected + values, rtol=1e-5, atol=1e-5)
    order = rng.permutation(rows)
    again = compiled_lattice.build(compiled, features, 3.0, order)
    back, forth = np.argsort(order), np.argsort(ours.order)
    np.testing.assert_allclose(
        again.filter(values[order])[back], expected_in(ours, values)[forth], rtol=1e-5, atol=1e-5
    )


def expected_in(lattice: compiled_lattice.CompiledLattice, values: np.ndarray) -> np.ndarray:
    filtered: np.ndarray = lattice.filter(values[lattice.order])
    return filtered


def test_neighbours_are_each_others(compiled: CompiledArrays) -> None:
    features = list(np.random.default_rng(0).normal(size=(5, 400)).astype(np.float32))
    lattice = compiled_lattice.build(compiled, features, 1.0)
    for pairs in lattice.pairs:
        after, before = pairs.T
        has = np.flatnonzero(after < lattice.points)
        assert len(has)
        assert (before[after[has]] == has).all()
        assert (before < lattice.points).sum() == len(has)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_steps_of_the_mean_field_are_those_of_numpy(compiled: CompiledArrays, scale: float) -> None:
    energies, evidence, column = (
        table(1000, scale).clip(-85, 80),
        table(999, scale)[:999],
        table(1000, 1.0)[:, :1].copy(),
    )
    evidence = np.vstack([evidence, evidence[:1]])

    def run(name: str, on: HostArrays, *rest: np.ndarray) -> list[np.ndarray]:
        values = [energies.copy(), *(one.copy() for one in rest)]
        answer = getattr(on, name)(*values)
        return [*values[1:], values[0] if answer is None else answer]

    total = np.abs(column) + 1
    for name, rest in {
        "exponentials": [total],
        "divide": [total],
        "sigmoid": [],
        "add_unary_multi": [evidence, column],
        "add_unary_binary": [evidence, column],
    }.items():
        for ours, plain in zip(run(name, compiled, *rest), run(name, HOST, *rest), strict=True):
            np.testing.assert_allclose(ours, plain, rtol=2e-6, atol=1e-5, err_msg=name)


def test_what_is_nobodys_stays_nobodys(compiled: CompiledArrays) -> None:
    values, total = np.full((1, 4), -1e30, np.float32), np.zeros((1, 1), np.float32)
    assert not compiled.sigmoid(values.copy()).any()
    compiled.exponentials(values, total)
    assert not values.any()
    assert not total.any()


def test_arrays_of_another_kind_are_refused(compiled: CompiledArrays) -> None:
    for wrong in (np.zeros((8, 4)), np.zeros((8, 8), np.float32)[:, ::2]):
        with pytest.raises(ctypes.ArgumentError):
            compiled.sigmoid(wrong)


def test_kernels_that_were_not_compiled_are_done_without(tmp_path) -> None:
    assert load(str(tmp_path / "lattice-00000000.so")) is None
    (tmp_path / "broken.so").write_bytes(b"no library")
    assert load(str(tmp_path / "broken.so")) is None


def hook(folder) -> hatch_build.KernelsHook:
    return hatch_build.KernelsHook(str(folder), {}, None, None, str(folder), "wheel", Application())


@pytest.mark.usefixtures("compiled")  # there is a compiler
def test_a_wheel_holds_the_kernels_of_its_source_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hatch_build, "SOURCE", tmp_path / "lattice.c")
    built = {}
    for text in ("int one(void) { return 1; }", "int two(void) { return 2; }"):
        (tmp_path / "lattice.c").write_text(text)
        hook(tmp_path).initialize("standard", built)
    (library,) = tmp_path.glob("lattice-*.so")
    assert ctypes.CDLL(str(library)).two() == 2
    assert not built["pure_python"]
    assert built["tag"].startswith("py3-none-")


def test_a_wheel_is_made_without_a_compiler_too(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    built = {}
    hook(tmp_path).initialize("standard", built)
    assert built == {}
    assert "scipy" in "".join(capsys.readouterr())
