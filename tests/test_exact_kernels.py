"""Every kernel equals the reference, or is refused; and numba compiles with, without and beside a damaged cache."""

import dataclasses
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.exact import kernels
from medzip.exact.compiled import setup
from medzip.exact.kernels import Kernel, Layer, gives_known_answers
from medzip.exact.linear import SHIFT_MAX, Linear, accumulate, hidden

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
needs_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are instructions of x86-64")

NAMES = [kernel.name for kernel in kernels.kernels()]


def run(script: str, **environment: str) -> list[str]:
    """What a fresh process prints, line by line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=kept | environment, cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def kernel(name: str) -> Kernel:
    return next(k for k in kernels.kernels() if k.name == name)


def random_case(outputs: int, inputs: int, n: int, seed: int, extreme: bool) -> tuple[Linear, np.ndarray]:
    random = np.random.default_rng(seed)
    if extreme:
        weight, x = random.choice([-127, 127], (outputs, inputs)), random.choice([-128, 127], (n, inputs))
    else:
        weight, x = random.integers(-127, 128, (outputs, inputs)), random.integers(-128, 128, (n, inputs))
    bias = random.integers(-(10**6), 10**6, outputs)
    return Linear(weight.astype(np.int8), bias.astype(np.int32)), x.astype(np.int8)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=25)
@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 70),
    n=st.one_of(st.integers(0, 20), st.sampled_from([127, 128, 129])),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_every_kernel_equals_the_reference(name: str, outputs: int, inputs: int, n: int, seed: int, extreme: bool) -> None:
    linear, x = random_case(outputs, inputs, n, seed, extreme)
    found = kernel(name).layer(linear)(x)
    assert found.dtype == np.int32
    assert np.array_equal(found, accumulate(linear, x))


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_of_this_machine_gives_the_known_answers(name: str) -> None:
    assert gives_known_answers(kernel(name))


def saturating_layer(linear: Linear) -> Layer:
    """Like pmaddubsw: sums of two neighbouring products saturate at 16 bits."""

    def layer(x: np.ndarray) -> np.ndarray:
        unsigned = x.astype(np.int64)[:, None, :] + 128
        products = unsigned * linear.weight.astype(np.int64)
        pairs = np.add.reduceat(products, np.arange(0, linear.inputs, 2), axis=2)
        correction = linear.bias - 128 * linear.weight.astype(np.int64).sum(axis=1)
        return (np.clip(pairs, -32768, 32767).sum(axis=2) + correction).astype(np.int32)

    return layer


def crashing_layer(linear: Linear) -> Layer:
    raise RuntimeError(f"no kernel for {linear.outputs} outputs")


def test_a_saturating_kernel_passes_where_operands_are_ordinary_and_is_refused_all_the_same() -> None:
    random = np.random.default_rng(0)
    linear = Linear(random.integers(-40, 41, (16, 64)).astype(np.int8), np.zeros(16, np.int32))
    x = random.integers(-100, 101, (50, 64)).astype(np.int8)
    assert np.array_equal(saturating_layer(linear)(x), accumulate(linear, x))
    assert not gives_known_answers(Kernel("saturating", saturating_layer), ((16, 64),))


def test_the_next_kernel_is_taken_where_one_saturates_or_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = kernel("numpy int64")
    bad = [Kernel("saturating", saturating_layer), Kernel("crashing", crashing_layer)]
    monkeypatch.setattr(kernels, "kernels", lambda: iter([*bad, reference]))
    assert kernels.fastest.__wrapped__(((24, 40),)) is reference


def test_float32_is_not_used_where_it_would_round() -> None:
    linear = Linear(np.full((1, 1), 127, np.int8), np.array([(1 << 24) + 1], np.int32))
    x = np.zeros((1, 1), np.int8)
    assert kernel("numpy float32").layer(linear)(x).item() == (1 << 24) + 1


@needs_torch
def test_torch_is_refused_where_its_products_saturate() -> None:
    script = """
import numpy as np, torch
from medzip.exact.kernels import gives_known_answers, kernels
from medzip.exact.linear import Linear, accumulate
torch.set_num_threads(1)
linear = Linear(np.full((16, 64), 127, np.int8), np.zeros(16, np.int32))
x = np.full((32, 64), 127, np.int8)
kernel = next(k for k in kernels() if k.name == "torch int8")
print(np.array_equal(kernel.layer(linear)(x), accumulate(linear, x)), gives_known_answers(kernel))
"""
    right, eligible = run(script, ONEDNN_MAX_CPU_ISA="AVX2")[0].split()
    if right == "True":
        pytest.skip("torch gives right sums on this machine even under ONEDNN_MAX_CPU_ISA=AVX2")
    assert eligible == "False"


@needs_numba
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), n=st.integers(0, 9), width=st.integers(1, 40), small=st.booleans(), with_residual=st.booleans())
def test_the_compiled_activation_equals_the_reference(seed: int, n: int, width: int, small: bool, with_residual: bool) -> None:
    from medzip.exact.compiled.dense import hidden_into

    random = np.random.default_rng(seed)
    shift = random.integers(0, SHIFT_MAX + 1, width).astype(np.int32)
    largest = 2000 if small else (1 << 30) - 1
    sums = random.integers(-largest, largest + 1, (n + 3, width + 16)).astype(np.int32)
    residual = random.integers(-128, 128, (n + 1, width + 5)).astype(np.int8) if with_residual else None
    out = np.full((n + 2, width + 7), 99, np.int8)
    hidden_into(sums, shift, residual, out, n)
    added = None if residual is None else residual[:n, :width]
    assert np.array_equal(out[:n, :width], hidden(sums[:n, :width], shift, added))
    assert (out[n:] == 99).all() and (out[:, width:] == 99).all()


@needs_numba
@settings(deadline=None, max_examples=40)
@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 70),
    n=st.integers(0, 20),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
    with_residual=st.booleans(),
)
def test_every_fused_layer_equals_the_reference_and_writes_only_its_rows_and_columns(
    outputs: int, inputs: int, n: int, seed: int, extreme: bool, with_residual: bool
) -> None:
    from medzip.exact.compiled.dense import INPUTS, OUTPUTS, ROWS, padded, variants

    linear, x = random_case(outputs, inputs, n, seed, extreme)
    random = np.random.default_rng(seed)
    rows, columns = padded(n, ROWS), padded(outputs, OUTPUTS)
    tile = np.zeros((n, padded(inputs, INPUTS)), np.int8)
    tile[:, :inputs] = x
    shift = np.zeros(columns, np.int32)
    shift[:outputs] = random.integers(0, 20, outputs)
    residual = random.integers(-128, 128, (rows, columns + 3)).astype(np.int8) if with_residual else None
    expected = hidden(accumulate(linear, x), shift[:outputs], None if residual is None else residual[:n, :outputs])
    for variant in variants():
        weights, bias = variant.pack(linear)
        out = np.full((rows + 1, columns + 5), 99, np.int8)
        variant.dense_hidden(tile, weights, bias, shift, residual, n, out)
        assert np.array_equal(out[:n, :outputs], expected), variant.name
        assert (out[rows:] == 99).all() and (out[:, columns:] == 99).all(), variant.name


@needs_numba
def test_a_variant_whose_activation_is_wrong_in_one_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.compiled_variant()
    assert right is not None

    def dense_hidden(*arguments: Any) -> None:
        right.dense_hidden(*arguments)
        arguments[-1][8, 1000] ^= 1

    wrong = dataclasses.replace(right, dense_hidden=dense_hidden)
    monkeypatch.setattr(kernels, "_variants", lambda: (wrong, right))
    assert kernels.compiled_variant.__wrapped__() is right
    monkeypatch.setattr(kernels, "_variants", lambda: (wrong,))
    assert kernels.compiled_variant.__wrapped__() is None


@needs_numba
def test_dense_refuses_shapes_that_do_not_fit_instead_of_writing_elsewhere() -> None:
    from medzip.exact.compiled.dense import variants

    linear, _ = random_case(20, 10, 0, 0, False)
    x, out, residual, shift = (9, 12), (16, 32), (16, 32), (32,)
    wrong = [
        ((8, 12), out, residual, shift),
        ((9, 10), out, residual, shift),
        (x, (15, 32), residual, shift),
        (x, (16, 31), residual, shift),
        (x, out, (9, 32), shift),
        (x, out, (16, 20), shift),
        (x, out, residual, (20,)),
    ]
    for variant in variants():
        weights, bias = variant.pack(linear)
        for i, shapes in enumerate(wrong):
            a, b, c = (np.zeros(shape, np.int8) for shape in shapes[:3])
            with pytest.raises(ValueError, match="dense"):
                variant.dense_hidden(a, weights, bias, np.zeros(shapes[3], np.int32), c, 9, b)
            if i < 4:
                with pytest.raises(ValueError, match="dense"):
                    variant.dense(a, weights, bias, 9, b.astype(np.int32))


VARIANT = """
from medzip.exact.compiled import setup
from medzip.exact.kernels import compiled_variant, kernels
print(compiled_variant().name, setup.cache_folder(), *(kernel.name for kernel in kernels()), sep=", ")
"""


@needs_numba
@needs_x86
def test_variants_follow_numbas_cpu_features_and_need_no_writable_home() -> None:
    features = "+sse2,+cx8,+sse4.2,+ssse3,+sse4.1,+avx,+avx2"
    if not setup.cpu_features() >= {feature[1:] for feature in features.split(",")}:
        pytest.skip("this CPU has no AVX2")
    (line,) = run(VARIANT, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=features, HOME="/dev/null/nowhere")
    assert line == "avx2, None, numba avx2, numba sse2, numpy float32, numba generic, numpy int64"


CACHED = """
import sys
import numpy as np
from medzip.exact import kernels
assert "numba" not in sys.modules
from medzip.exact.compiled.dense import hidden_into
hidden_into(np.zeros((1, 1), np.int32), np.zeros(1, np.int32), None, np.zeros((1, 1), np.int8), 1)
import numba
print(sum(hidden_into.stats.cache_hits.values()), numba.config.CACHE_DIR)
"""


@needs_numba
def test_machine_code_is_kept_and_made_anew_where_it_is_damaged(tmp_path: Path) -> None:
    place = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert run(CACHED, **place) == [f"0 {tmp_path}"]
    kept = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc"))
    assert [path.suffix for path in kept] == [".nbc", ".nbi"]
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
        assert run(CACHED, **place) == [f"0 {tmp_path}"]
    assert run(CACHED, **place) == [f"1 {tmp_path}"]


@needs_numba
def test_machine_code_is_not_kept_for_another_variant_than_it_was_made_with(tmp_path: Path) -> None:
    (tmp_path / "chosen.py").write_text("""
import sys
from medzip.exact.compiled.setup import njit
@njit
def one(): return 1
@njit
def two(): return 2
chosen = two if sys.argv[1:] else one
@njit
def caller(): return chosen()
""")
    script = f"import sys; sys.path.append({str(tmp_path)!r}); sys.argv[1:] = {{}}; import chosen; print(chosen.caller())"
    assert run(script.format([]), NUMBA_CACHE_DIR=str(tmp_path)) == ["1"]
    assert run(script.format(["two"]), NUMBA_CACHE_DIR=str(tmp_path)) == ["2"]


@needs_numba
def test_the_users_cache_folder_holds_medzips_and_numbas_own_setting_stays(tmp_path: Path) -> None:
    script = """
import numba
from medzip.exact.compiled import setup
setup.njit(lambda x: x)
print(setup.cache_folder().parent, repr(numba.config.CACHE_DIR))
"""
    assert run(script, XDG_CACHE_HOME=str(tmp_path)) == [f"{tmp_path / 'medzip'} ''"]
