/* Small dense products and activations for the compiled kernels, in the widest vectors of the processor.

   A kernel defines REAL as float or double before it includes this file. Matrices that are named with a leading
   dimension are rows of that many numbers; a leading dimension of PADDED(n) has room for whole vectors, whose last
   numbers are written too.

   Every element of a product is one sum in the order of k, with fused multiply-add where the processor has it. So
   results do not depend on the width of the vectors, on the number of rows or on the thread. */

#ifndef MATRIX_H
#define MATRIX_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef REAL
#error "define REAL as float or double"
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define TILE_ROWS 6
#define TILE_VECTORS 4 /* 24 sums, 4 of b and 1 of a in 32 registers */
#else
#define VECTOR_BYTES 32
#define TILE_ROWS 6
#define TILE_VECTORS 2 /* 12 sums, 2 of b and 1 of a in 16 registers */
#endif

typedef REAL real;
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(real)))
#define PADDED(n) (((int64_t)(n) + LANES - 1) / LANES * LANES)
#define INLINE static inline __attribute__((always_inline))
typedef real vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

/* `rows` × `vectors` vectors of C = (add ? C : 0) + A B. a[i, k] is a[i * a_row + k * a_column]. The sums are over all k
   below `depth`, or over chosen[0], .., chosen[depth - 1]. */
INLINE void multiply_tile(const int rows, const int vectors, int64_t depth, const int64_t *chosen, const real *a,
                          int64_t a_row, int64_t a_column, const real *b, int64_t b_row, real *c, int64_t c_row,
                          int add) {
  vector sum[TILE_ROWS][TILE_VECTORS];
  _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++)
    _Pragma("GCC unroll 4") for (int j = 0; j < vectors; j++)
      sum[i][j] = add ? *(const vector *)(c + i * c_row + j * LANES) : (vector){0};
  for (int64_t n = 0; n < depth; n++) {
    int64_t k = chosen ? chosen[n] : n;
    vector right[TILE_VECTORS];
    _Pragma("GCC unroll 4") for (int j = 0; j < vectors; j++) right[j] = *(const vector *)(b + k * b_row + j * LANES);
    _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) {
      real left = a[i * a_row + k * a_column];
      _Pragma("GCC unroll 4") for (int j = 0; j < vectors; j++) sum[i][j] += left * right[j];
    }
  }
  _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++)
    _Pragma("GCC unroll 4") for (int j = 0; j < vectors; j++) *(vector *)(c + i * c_row + j * LANES) = sum[i][j];
}

/* All rows of a panel of `vectors` vectors. */
INLINE void multiply_panel(const int vectors, int64_t rows, int64_t depth, const int64_t *chosen, const real *a,
                           int64_t a_row, int64_t a_column, const real *b, int64_t b_row, real *c, int64_t c_row,
                           int add) {
#define ROWS(n) multiply_tile(n, vectors, depth, chosen, a, a_row, a_column, b, b_row, c, c_row, add)
  for (; rows >= TILE_ROWS; rows -= TILE_ROWS, a += TILE_ROWS * a_row, c += TILE_ROWS * c_row) ROWS(TILE_ROWS);
  switch (rows) {
    case 5: ROWS(5); break;
    case 4: ROWS(4); break;
    case 3: ROWS(3); break;
    case 2: ROWS(2); break;
    case 1: ROWS(1); break;
  }
#undef ROWS
}

/* All panels of C. */
INLINE void multiply_panels(int64_t rows, int64_t columns, int64_t depth, const int64_t *chosen, const real *a,
                            int64_t a_row, int64_t a_column, const real *b, int64_t b_row, real *c, int64_t c_row,
                            int add) {
  int64_t vectors = PADDED(columns) / LANES;
#define PANEL(n) multiply_panel(n, rows, depth, chosen, a, a_row, a_column, b, b_row, c, c_row, add)
  for (; vectors >= TILE_VECTORS; vectors -= TILE_VECTORS, b += TILE_VECTORS * LANES, c += TILE_VECTORS * LANES)
    PANEL(TILE_VECTORS);
  switch (vectors) {
    case 3: PANEL(3 < TILE_VECTORS ? 3 : TILE_VECTORS); break;
    case 2: PANEL(2 < TILE_VECTORS ? 2 : TILE_VECTORS); break;
    case 1: PANEL(1); break;
  }
#undef PANEL
}

/* C [rows, columns] = (add ? C : 0) + A B, for A [rows, depth] and B [depth, columns].

   a[i, k] is a[i * a_row + k * a_column], so that a_row = 1 reads a transposed matrix. Rows of b and c have at least
   PADDED(columns) numbers, and whole vectors of c are written. b should stay in the cache; block the rows for that. */
__attribute__((unused)) static void multiply(int64_t rows, int64_t columns, int64_t depth, const real *a, int64_t a_row,
                                             int64_t a_column, const real *b, int64_t b_row, real *c, int64_t c_row,
                                             int add) {
  multiply_panels(rows, columns, depth, NULL, a, a_row, a_column, b, b_row, c, c_row, add);
}

/* The same with the sums over the `count` columns of A and rows of B that `chosen` names: where all others of B are
   zero, it is the product. */
__attribute__((unused)) static void multiply_chosen(int64_t rows, int64_t columns, int64_t count, const int64_t *chosen,
                                                    const real *a, int64_t a_row, int64_t a_column, const real *b,
                                                    int64_t b_row, real *c, int64_t c_row, int add) {
  multiply_panels(rows, columns, count, chosen, a, a_row, a_column, b, b_row, c, c_row, add);
}

/* Copies `from [rows, columns]`, whose rows have from_row numbers, to `to [rows, to_row]`, with zeros behind it. */
INLINE void pad(int64_t rows, int64_t columns, const real *from, int64_t from_row, real *to, int64_t to_row) {
  for (int64_t i = 0; i < rows; i++) {
    memcpy(to + i * to_row, from + i * from_row, columns * sizeof(real));
    memset(to + i * to_row + columns, 0, (to_row - columns) * sizeof(real));
  }
}

/* Copies the transpose of `from [rows, columns]` to `to [columns, to_row]`, with zeros behind it. */
INLINE void transpose(int64_t rows, int64_t columns, const real *from, int64_t from_row, real *to, int64_t to_row) {
  memset(to, 0, columns * to_row * sizeof(real));
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = 0; i < rows; i++) to[j * to_row + i] = from[i * from_row + j];
}

#define FLOAT (sizeof(real) == 4)
#define MOST_VECTORS 4 /* of a call for several */
typedef __typeof__((vector){0} == (vector){0}) whole; /* integers as wide as the numbers; a comparison gives −1 or 0 */

INLINE vector choose(whole condition, vector then, vector otherwise) {
  return (vector)((condition & (whole)then) | (~condition & (whole)otherwise));
}

#define ALL(i) _Pragma("GCC unroll 8") for (int i = 0; i < count; i++)

/* e^f − 1 in place of `count` vectors, and their 2ⁿ, for x = n ln 2 + f with |f| ≤ ln 2 / 2, for −708 (float: −87) ≤ x ≤ 0,
   to two units in the last place, by its Taylor series. In floats the term f⁷ / 7! of the series is replaced by the terms
   f³ and f⁵ that are closest to it for these f (f⁵ = 5/4 a² f³ − 5/16 a⁴ f, up to a⁵ / 16, for |f| ≤ a).

   The operations of several vectors alternate, so that the processor works on all of them at a time: one alone waits for
   its own results. */
INLINE void reduced_expm1(const int count, vector *x, vector *power) {
  const real low = FLOAT ? -87 : -708, shift = FLOAT ? 12582912.0 : 6755399441055744.0; /* 1.5 · 2^23, 1.5 · 2^52 */
  const double half = 0.34657359027997264, square = half * half;                       /* a = ln 2 / 2 */
  vector sum[MOST_VECTORS], *f = x;
  ALL(i) x[i] = choose(x[i] < low, (vector){0} + low, x[i]);
  ALL(i) {
    vector shifted = x[i] * (real)1.4426950408889634 + shift, n = shifted - shift;
    f[i] = x[i] - n * (real)(FLOAT ? 0.693359375 : 6.93147180369123816490e-01);
    f[i] -= n * (real)(FLOAT ? -2.12194440e-4 : 1.90821492927058770002e-10);
    power[i] = (vector)(((whole)shifted - (whole)((vector){0} + shift) + (FLOAT ? 127 : 1023)) << (FLOAT ? 23 : 52));
    sum[i] = (vector){0};
  }
#define TERM(coefficient) ALL(i) sum[i] = sum[i] * f[i] + (real)(coefficient)
  if (!FLOAT) {
    TERM(1 / 6227020800.0);
    TERM(1 / 479001600.0);
    TERM(1 / 39916800.0);
    TERM(1 / 3628800.0);
    TERM(1 / 362880.0);
    TERM(1 / 40320.0);
    TERM(1 / 5040.0);
  }
  TERM(1 / 720.0);
  TERM(1 / 120.0 + (FLOAT ? 1.25 * square / 5040 : 0));
  TERM(1 / 24.0);
  TERM(1 / 6.0 - (FLOAT ? 0.3125 * square * square / 5040 : 0));
  TERM(0.5);
#undef TERM
  ALL(i) f[i] = sum[i] * f[i] * f[i] + f[i];
}

/* e^x of each lane for x ≤ 0. */
INLINE vector exp_of_negative(vector x) {
  vector power;
  reduced_expm1(1, &x, &power);
  return power * x + power;
}

/* tanh x = −m / (m + 2) with m = e^(−2|x|) − 1 = 2ⁿ (e^f − 1) + (2ⁿ − 1), and the sign of x,
   in place of `count` vectors; NaN stays NaN. */
INLINE void tanh_of(const int count, vector *x) {
  const whole minus = (whole)-(vector){0};
  vector m[MOST_VECTORS], power[MOST_VECTORS];
  ALL(i) m[i] = (vector)((whole)((real)2 * x[i]) | minus);
  reduced_expm1(count, m, power);
  ALL(i) m[i] = power[i] * m[i] + (power[i] - 1);
  ALL(i) x[i] = (vector)(((whole)(m[i] / (m[i] + 2)) & ~minus) | ((whole)x[i] & minus));
}

INLINE vector vector_tanh(vector x) {
  tanh_of(1, &x);
  return x;
}

/* σ(x) = (x < 0 ? e : 1) / (1 + e) with e = e^−|x|; NaN stays NaN. */
INLINE vector vector_sigmoid(vector x) {
  vector e = exp_of_negative((vector)((whole)x | (whole) - (vector){0}));
  return choose(x < 0, e, (vector){0} + 1) / (1 + e);
}

#endif
