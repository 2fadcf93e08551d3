/* A GRU over a sequence, from its inputs to its states, and the gradient of its parameters and first state.

   At each step, with the features f, the pair p and the reward of a row (research/policies/memory/inputs.py):

       forward   x = W' f + b' + E_p + reward · E'_p                       for the gates r, z and n
                 r = σ(x_r + W_r h),  z = σ(x_z + W_z h),  q = W_n h + b,  n = tanh(x_n + r ∘ q)
                 h' = n + z ∘ (h − n)
       backward  δ = ∂h' + what the next step gives
                 ∂n = δ ∘ (1 − z) ∘ (1 − n²),  ∂z = δ ∘ (h − n) ∘ z (1 − z),  ∂r = ∂n ∘ q ∘ r (1 − r),  ∂q = ∂n ∘ r
                 δ of the step before = δ ∘ z + W_rᵀ ∂r + W_zᵀ ∂z + W_nᵀ ∂q
                 and W += (∂r, ∂z, ∂q) hᵀ,  W' += ∂x fᵀ,  b' += ∂x,  b += ∂q,  E_p += ∂x,  E'_p += reward · ∂x

   with ∂x = (∂r, ∂z, ∂n). All steps of a block of rows follow each other, so that their states stay in the cache. A tile
   of the forward pass has a vector of units of some rows: its gates are sums in registers, and are written once, for the
   backward pass. Sums over rows and steps are in the order of blocks and steps, which
   depends on the number of rows alone.

   `size` is the number of units, `width` that number in whole vectors; what is kept has rows of `width` numbers. */

#include <stdlib.h>

#include "matrix.h"

#define BLOCK 48 /* rows */
#if defined(__AVX512F__)
#define STEP_ROWS 8 /* 24 sums, 3 of the weights and 1 of the state in 32 registers */
#else
#define STEP_ROWS 4 /* 12 sums, 3 of the weights and 1 of the state in 16 registers */
#endif
#define EACH_ROW _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++)

typedef struct {
  int64_t time, rows, size, features, pairs;
  int64_t begin, end;        /* rows of a forward pass; the first is the start of a block */
  const real *feature;       /* [time, rows, features] */
  const int64_t *pair;       /* [time, rows], below `pairs`; NULL if pairs = 0 */
  const real *reward;        /* [time, rows]; NULL if pairs = 0 */
  const real *weight_input;  /* W' [3 size, features] */
  const real *bias_input;    /* b' [3 size] */
  const real *table;         /* E and E' [2, pairs, 3 size] */
  const real *weight;        /* W [3 size, size] */
  const real *bias;          /* b [size] */
  real *state;               /* h [time + 1, rows, width]; the first is given, with zeros behind `size` */
  real *gate; /* r, z, n, q for the backward pass, [time, blocks, width / LANES, rows of the block, 4, LANES]; or NULL */
} Sequence;

typedef struct {
  const real *state;   /* ∂h' [time, rows, size] */
  real *first;         /* of the first state [rows, size] */
  real *weight_input, *bias_input, *table, *weight, *bias; /* as in Sequence */
} Gradient;

int64_t gru_width(int64_t size) { return PADDED(size); }

/* Rows of a block: blocks are nearly equal, and all but the last are whole tiles. */
static int64_t block_rows(int64_t rows) {
  int64_t blocks = (rows + BLOCK - 1) / BLOCK, even = blocks ? (rows + blocks - 1) / blocks : 1;
  return (even + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
}

int64_t gru_block(int64_t rows) { return block_rows(rows); }

/* Copies [3, size] to [3, width] and so on: `parts` parts of `size` numbers each, with zeros behind them. */
static void pad_parts(int64_t parts, int64_t size, const real *from, real *to) {
  pad(parts, size, from, size, to, PADDED(size));
}

/* The transpose of three gates' weights [3 size, columns], as [width / LANES, columns, 3, LANES]. */
static void pack_gates(int64_t size, int64_t columns, const real *from, real *to) {
  memset(to, 0, columns * 3 * PADDED(size) * sizeof(real));
  for (int64_t gate = 0; gate < 3; gate++)
    for (int64_t i = 0; i < size; i++)
      for (int64_t k = 0; k < columns; k++)
        to[((i / LANES * columns + k) * 3 + gate) * LANES + i % LANES] = from[(gate * size + i) * columns + k];
}

INLINE vector load(const real *from) { return *(const vector *)from; }
INLINE void store(real *to, vector value) { *(vector *)to = value; }

/* The weights in the order of the tiles: `input` and `weight` by `pack_gates`, the others in whole vectors. */
typedef struct {
  real *input, *weight, *table, *bias; /* the last: b' and b */
} Packed;

/* The units from `j` on of a step of `rows` rows, a vector of each row: the gates, if they are kept, and the states. */
INLINE void step_tile(const int rows, const Sequence *s, const Packed *p, int64_t j, int64_t at, real *gate) {
  const int64_t width = PADDED(s->size), features = s->features, size = s->size;
  const real *before = s->state + at * width, *feature = s->feature + at * features;
  real *after = s->state + (at + s->rows) * width + j;
  vector r[STEP_ROWS], z[STEP_ROWS], n[STEP_ROWS], q[STEP_ROWS];
  EACH_ROW {
    r[i] = load(p->bias + j), z[i] = load(p->bias + width + j), n[i] = load(p->bias + 2 * width + j);
    q[i] = load(p->bias + 3 * width + j);
    if (s->pairs) {
      const real *plain = p->table + s->pair[at + i] * 3 * width + j, *weighted = plain + s->pairs * 3 * width;
      real reward = s->reward[at + i];
      r[i] = r[i] + load(plain) + reward * load(weighted);
      z[i] = z[i] + load(plain + width) + reward * load(weighted + width);
      n[i] = n[i] + load(plain + 2 * width) + reward * load(weighted + 2 * width);
    }
  }
  const real *weight = p->input + 3 * j * features;
  for (int64_t k = 0; k < features; k++, weight += 3 * LANES) {
    vector to_r = load(weight), to_z = load(weight + LANES), to_n = load(weight + 2 * LANES);
    EACH_ROW {
      real left = feature[i * features + k];
      r[i] += left * to_r, z[i] += left * to_z, n[i] += left * to_n;
    }
  }
  weight = p->weight + 3 * j * size;
  for (int64_t k = 0; k < size; k++, weight += 3 * LANES) {
    vector to_r = load(weight), to_z = load(weight + LANES), to_q = load(weight + 2 * LANES);
    EACH_ROW {
      real left = before[i * width + k];
      r[i] += left * to_r, z[i] += left * to_z, q[i] += left * to_q;
    }
  }
  EACH_ROW {
    vector reset = vector_sigmoid(r[i]), keep = vector_sigmoid(z[i]), new = vector_tanh(n[i] + reset * q[i]);
    store(after + i * width, new + keep * (load(before + i * width + j) - new));
    if (!gate) continue;
    store(gate + i * 4 * LANES, reset), store(gate + i * 4 * LANES + LANES, keep);
    store(gate + i * 4 * LANES + 2 * LANES, new), store(gate + i * 4 * LANES + 3 * LANES, q[i]);
  }
}

/* The units from `j` on of a step of `rows` rows from `at` on. */
static void step_units(int64_t rows, const Sequence *s, const Packed *p, int64_t j, int64_t at, real *gate) {
  const int64_t kept = gate ? STEP_ROWS * 4 * LANES : 0;
  for (; rows >= STEP_ROWS; rows -= STEP_ROWS, at += STEP_ROWS, gate += kept) step_tile(STEP_ROWS, s, p, j, at, gate);
  for (; rows; rows--, at++, gate += kept / STEP_ROWS) step_tile(1, s, p, j, at, gate);
}

/* All states of the rows from `begin` to `end`, and the gates if they are kept. Returns 0, or −1 without memory. */
int gru_forward(const Sequence *s) {
  const int64_t size = s->size, width = PADDED(size), block = block_rows(s->rows);
  real *memory = malloc(((size + s->features + 2 * s->pairs) * 3 * width + 4 * width) * sizeof(real));
  if (!memory) return -1;
  Packed p = {.weight = memory, .input = memory + size * 3 * width};
  p.table = p.input + s->features * 3 * width, p.bias = p.table + 2 * s->pairs * 3 * width;
  pack_gates(size, size, s->weight, p.weight);
  pack_gates(size, s->features, s->weight_input, p.input);
  pad_parts(2 * s->pairs * 3, size, s->table, p.table);
  pad_parts(3, size, s->bias_input, p.bias);
  pad_parts(1, size, s->bias, p.bias + 3 * width);
  for (int64_t first = s->begin; first < s->end; first += block) {
    int64_t rows = s->end - first < block ? s->end - first : block;
    for (int64_t t = 0; t < s->time; t++)
      for (int64_t j = 0, at = t * s->rows + first; j < width; j += LANES)
        step_units(rows, s, &p, j, at, s->gate ? s->gate + 4 * (at * width + j * rows) : NULL);
  }
  free(memory);
  return 0;
}

/* ∂r, ∂z, ∂n and ∂q [rows, 4 width + …] and δ ∘ z from δ + ∂h'; adds the first four to `sums`. */
static void pull_gates(int64_t rows, int64_t width, const real *gate, const real *before, const real *cotangent,
                       real *delta, real *pulled, int64_t pulled_row, real *sums) {
  for (int64_t j = 0; j < width; j += LANES) {
    vector sum_r = load(sums + j), sum_z = load(sums + width + j);
    vector sum_n = load(sums + 2 * width + j), sum_q = load(sums + 3 * width + j);
    for (int64_t i = 0; i < rows; i++, gate += 4 * LANES) {
      real *to = pulled + i * pulled_row + j;
      vector r = load(gate), z = load(gate + LANES), n = load(gate + 2 * LANES), q = load(gate + 3 * LANES);
      vector all = load(delta + i * width + j) + load(cotangent + i * width + j), kept = all * z;
      vector to_n = (all - kept) * (1 - n * n), to_z = kept * (1 - z) * (load(before + i * width + j) - n);
      vector to_q = to_n * r, to_r = to_q * (1 - r) * q;
      store(delta + i * width + j, kept);
      store(to, to_r), store(to + width, to_z), store(to + 2 * width, to_n), store(to + 3 * width, to_q);
      sum_r += to_r, sum_z += to_z, sum_n += to_n, sum_q += to_q;
    }
    store(sums + j, sum_r), store(sums + width + j, sum_z);
    store(sums + 2 * width + j, sum_n), store(sums + 3 * width + j, sum_q);
  }
}

/* Adds a row's ∂x to the embeddings of its pair. */
static void pull_table(const Sequence *s, int64_t at, const real *pulled, real *table) {
  int64_t width = PADDED(s->size);
  real *plain = table + s->pair[at] * 3 * width, *weighted = plain + s->pairs * 3 * width, reward = s->reward[at];
  for (int64_t j = 0; j < 3 * width; j += LANES) {
    store(plain + j, load(plain + j) + load(pulled + j));
    store(weighted + j, load(weighted + j) + reward * load(pulled + j));
  }
}

/* Copies `parts` parts of `width` numbers without what is behind `size` of them. */
static void cut_parts(int64_t parts, int64_t size, const real *from, real *to) {
  for (int64_t i = 0; i < parts; i++) memcpy(to + i * size, from + i * PADDED(size), size * sizeof(real));
}

/* Gradients of all parameters and of the first state. Returns 0, or −1 without memory. */
int gru_backward(const Sequence *s, const Gradient *g) {
  const int64_t size = s->size, width = PADDED(size), block = block_rows(s->rows), gates = 3 * width;
  const int64_t row = 4 * width + 2 * LANES; /* no power of two: rows that are read in columns share no cache set */
  const int64_t kept = (2 * width + s->features + 2 * s->pairs) * gates + 4 * width;
  real *memory = malloc((kept + block * (2 * width + row)) * sizeof(real));
  if (!memory) return -1;
  real *weight = memory, *to_weight = weight + gates * width, *to_input = to_weight + gates * width;
  real *to_table = to_input + s->features * gates, *sums = to_table + 2 * s->pairs * gates;
  real *delta = sums + 4 * width, *cotangent = delta + block * width, *pulled = cotangent + block * width;
  memset(memory, 0, kept * sizeof(real));
  for (int64_t gate = 0; gate < 3; gate++)
    pad(size, size, s->weight + gate * size * size, size, weight + gate * width * width, width);
  for (int64_t first = 0; first < s->rows; first += block) {
    int64_t rows = s->rows - first < block ? s->rows - first : block;
    memset(delta, 0, rows * width * sizeof(real));
    for (int64_t t = s->time - 1; t >= 0; t--) {
      int64_t at = t * s->rows + first;
      const real *before = s->state + at * width;
      pad(rows, size, g->state + at * size, size, cotangent, width);
      pull_gates(rows, width, s->gate + at * 4 * width, before, cotangent, delta, pulled, row, sums);
      multiply(rows, width, 2 * width, pulled, row, 1, weight, width, delta, width, 1);
      multiply(rows, width, width, pulled + gates, row, 1, weight + 2 * width * width, width, delta, width, 1);
      multiply(2 * width, width, rows, pulled, 1, row, before, width, to_weight, width, 1);
      multiply(width, width, rows, pulled + gates, 1, row, before, width, to_weight + 2 * width * width, width, 1);
      multiply(s->features, gates, rows, s->feature + at * s->features, 1, s->features, pulled, row, to_input, gates,
               1);
      if (s->pairs)
        for (int64_t i = 0; i < rows; i++) pull_table(s, at + i, pulled + i * row, to_table);
    }
    cut_parts(rows, size, delta, g->first + first * size);
  }
  for (int64_t gate = 0; gate < 3; gate++)
    cut_parts(size, size, to_weight + gate * width * width, g->weight + gate * size * size);
  for (int64_t i = 0; i < 3 * size; i++)
    for (int64_t j = 0; j < s->features; j++)
      g->weight_input[i * s->features + j] = to_input[j * gates + i / size * width + i % size];
  cut_parts(2 * s->pairs * 3, size, to_table, g->table);
  cut_parts(3, size, sums, g->bias_input);
  cut_parts(1, size, sums + gates, g->bias);
  free(memory);
  return 0;
}
