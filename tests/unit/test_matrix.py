"""research/matrix.h against NumPy: products of all shapes, and activations to units in the last place."""

import ctypes

import numpy as np
import pytest

from research import native

SOURCE = """
#include "matrix.h"
int vector_bytes(void) { return VECTOR_BYTES; }
int64_t padded(int64_t n) { return PADDED(n); }
void product(int64_t m, int64_t n, int64_t k, const real *a, int64_t row, int64_t column, const real *b, int64_t ldb,
             real *c, int64_t ldc, int64_t add) { multiply(m, n, k, a, row, column, b, ldb, c, ldc, (int)add); }
void product_of_chosen(int64_t m, int64_t n, int64_t count, const int64_t *chosen, const real *a, int64_t row,
                       const real *b, int64_t ldb, real *c, int64_t ldc) {
  multiply_chosen(m, n, count, chosen, a, row, 1, b, ldb, c, ldc, 0); }
void transposed(int64_t m, int64_t n, const real *a, real *to, int64_t ld) { transpose(m, n, a, n, to, ld); }
void padded_copy(int64_t m, int64_t n, const real *a, real *to, int64_t ld) { pad(m, n, a, n, to, ld); }
#define EACH(name, function) void name(int64_t n, const real *x, real *y) { \\
  for (int64_t i = 0; i < n; i += LANES) *(vector *)(y + i) = function(*(const vector *)(x + i)); }
EACH(tanh_each, vector_tanh)
EACH(sigmoid_each, vector_sigmoid)
EACH(exp_each, exp_of_negative)
"""
SPECIAL = [0.0, -0.0, 1e-30, -1e-30, np.inf, -np.inf, np.nan, 1e4, -1e4, 20.0, -20.0, 700.0, 0.3466, 88.0, 9.0, 1.0]


WIDE = ("-D__AVX512F__", "-Wno-psabi")
"""Vectors of 64 bytes, which the compiler makes of shorter ones where the processor has none."""


@pytest.fixture(scope="module", params=[("float",), ("double",), ("float", *WIDE), ("double", *WIDE)], ids=" ".join)
def kernel(request, tmp_path_factory):
    real, *wide = request.param
    source = tmp_path_factory.mktemp("matrix") / "matrix_test.c"
    source.write_text(SOURCE)
    loaded = native.library(source, (*native.KERNEL, f"-DREAL={real}", "-Wall", *(wide or ["-Werror"])), "")
    assert loaded is not None, "the tests are to run with a C compiler"
    loaded.padded.restype = ctypes.c_int64
    dtype = np.dtype({"float": np.float32, "double": np.float64}[real])
    assert loaded.padded(ctypes.c_int64(1)) * dtype.itemsize == (64 if wide else loaded.vector_bytes())

    def call(name, *arguments):
        function = getattr(loaded, name)
        return function(*[
            ctypes.c_void_p(item.ctypes.data) if isinstance(item, np.ndarray) else ctypes.c_int64(item)
            for item in arguments
        ])  # fmt: skip

    return call, dtype


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (6, 16, 3), (7, 33, 5), (48, 64, 64), (5, 100, 17), (13, 9, 1), (11, 24, 2)]
)
def test_products(kernel, shape, add):
    call, dtype = kernel
    rows, columns, depth = shape
    rng = np.random.default_rng(0)
    a = rng.normal(size=(rows, depth)).astype(dtype)
    width = call("padded", columns)
    b, c = np.zeros((depth, width), dtype), np.zeros((rows, width), dtype)
    b[:, :columns], c[:, :columns] = rng.normal(size=(depth, columns)), rng.normal(size=(rows, columns))
    expected = add * c.astype(float) + a.astype(float) @ b
    straight, turned, across = c.copy(), c.copy(), np.ascontiguousarray(a.T)
    call("product", rows, columns, depth, a, depth, 1, b, width, straight, width, add)
    call("product", rows, columns, depth, across, 1, rows, b, width, turned, width, add)
    np.testing.assert_allclose(straight, expected, rtol=0, atol=20 * np.finfo(dtype).eps * np.sqrt(depth))
    np.testing.assert_array_equal(straight, turned)
    np.testing.assert_array_equal(straight[:, columns:], 0)


def test_a_product_over_the_rows_that_are_not_zero(kernel):
    call, dtype = kernel
    rng = np.random.default_rng(0)
    a, b, width = rng.normal(size=(13, 20)).astype(dtype), np.zeros((20, 48), dtype), 48
    chosen = np.array([0, 3, 4, 11, 19])
    b[chosen] = rng.normal(size=(5, 48))
    ours, whole = np.full((13, 48), np.nan, dtype), np.empty((13, 48), dtype)
    call("product_of_chosen", 13, width, len(chosen), chosen, a, 20, b, width, ours, width)
    call("product", 13, width, 20, a, 20, 1, b, width, whole, width, False)
    np.testing.assert_array_equal(ours, whole)


def test_copies_have_zeros_behind_them(kernel):
    call, dtype = kernel
    a = np.arange(15.0).reshape(3, 5).astype(dtype) + 1
    turned, straight = np.full((5, 16), 7, dtype), np.full((3, 16), 7, dtype)
    call("transposed", 3, 5, a, turned, 16)
    call("padded_copy", 3, 5, a, straight, 16)
    np.testing.assert_array_equal(turned, np.pad(a.T, ((0, 0), (0, 13))))
    np.testing.assert_array_equal(straight, np.pad(a, ((0, 0), (0, 11))))


@pytest.mark.parametrize(
    ("name", "function", "most"),
    [
        ("tanh_each", np.tanh, 2),
        ("sigmoid_each", lambda x: 1 / (1 + np.exp(-x)), 2),
        ("exp_each", np.exp, 2),
    ],
)
def test_activations(kernel, name, function, most):
    call, dtype = kernel
    x = np.concatenate([np.linspace(-30, 30, 4000), np.linspace(-1e-3, 1e-3, 4000), SPECIAL]).astype(dtype)
    x = np.minimum(x, -x) if name == "exp_each" else x
    y = np.empty_like(x)
    call(name, len(x), x, y)
    with np.errstate(over="ignore"):
        expected = function(x.astype(np.longdouble))
    # tanh is right relative to itself also near 0, the others relative to 1.
    scale = np.abs(expected) + 1e-45 if name == "tanh_each" else 1
    units = np.abs(y - expected) / scale / np.finfo(dtype).eps
    assert np.isnan(y[np.isnan(x)]).all() and np.nanmax(units[x != 0]) < most
    assert y[x == 0].tolist() == function(x[x == 0]).tolist()
    numbers = ~np.isnan(x)
    np.testing.assert_array_equal(np.signbit(y[numbers]), np.signbit(expected[numbers]))
