/* Passes through a multilayer perceptron with a criterion of its output, for compiled kernels: a block of rows of one
   task. The equations are those of policies/mlp_function.py,

       forward   a_0 = x,  a_l = φ(a_{l−1} W_lᵀ + b_l),  o = a_{L−1} W_Lᵀ + b_L
       backward  δ_L = ∂ℓ/∂o,  s_l = δ_{l+1} W_{l+1},  δ_l = s_l ∘ φ'(a_l);  gradients δ_lᵀ a_{l−1} and Σ δ_l
       along V   p_l = a_{l−1} V_lᵀ + v_l + q_{l−1} W_lᵀ,  q_l = p_l ∘ φ'(a_l)
       products  ε_L = (ℓ_oo p_L + ..),  ε_l = (ε_{l+1} W_{l+1} + δ_{l+1} V_{l+1}) ∘ φ'(a_l) + q_l ∘ s_l ∘ φ''(a_l)
                 products ε_lᵀ a_{l−1} + δ_lᵀ q_{l−1} and Σ ε_l

   with φ' and φ'' in terms of a: 1 − a² and −2 a for tanh, [a > 0] and 0 for relu. The Gauss-Newton matrix is JᵀMJ
   with J = ∂o/∂θ: the same without the terms of δ (Pearlmutter 1994; Schraudolph 2002). criteria.h has ℓ.

   A block is small enough to stay in the cache from the first layer to the last and back. Sums go over rows in their
   order. */

#ifndef PERCEPTRON_H
#define PERCEPTRON_H

#include <stdlib.h>

#include "criteria.h"

#define BLOCK 48
#define MOST_LAYERS 32

enum { TANH, RELU };

/* Shape of a network, and where its parameters are in a vector: weights [out, in] and biases [out] of each layer, and
   log_std [out] if the distribution is normal. */
typedef struct {
  int64_t layers, activation, distribution, parameters, log_std;
  const int64_t *sizes, *weights, *biases; /* sizes of the input and of each layer's output */
  double min_log_std;
} network;

/* A vector of parameters as the products read it. */
typedef struct {
  real *down[MOST_LAYERS]; /* Wᵀ [in, PADDED(out)] */
  real *up[MOST_LAYERS];   /* W [out, PADDED(in)]; not of the first layer */
  real *bias[MOST_LAYERS];
} weights;

/* A block of rows; every row is padded. The parts from `pulled` on belong to the backward pass. */
typedef struct {
  real *after[MOST_LAYERS];  /* a_l, and the output of the last layer */
  real *pulled[MOST_LAYERS]; /* s_l of the hidden layers */
  real *cotangent;           /* δ_L */
} block;

/* Memory of one task. */
typedef struct {
  const network *net;
  weights at, along; /* W and V */
  block own;         /* the current block, if it is not kept */
  real *delta[MOST_LAYERS], *tangent[MOST_LAYERS], *second[MOST_LAYERS]; /* δ_l, q_l and ε_l */
  real *sum_weight[MOST_LAYERS], *sum_bias[MOST_LAYERS];
  real *log_std_tangent, *sum_log_std, *unused_log_std;
  head head;
} work;

typedef struct {
  real *base;
  int64_t used;
} arena;

#define IN(l) (net->sizes[l])
#define OUT(l) (net->sizes[(l) + 1])
#define EACH_LAYER(l) for (int64_t l = 0; l < net->layers; l++)

/* Whether the sum of a layer is W [out, in] and not Wᵀ [in, out]: whole vectors of the longer axis waste less. */
#define IS_NARROW(l) ((l) > 0 && OUT(l) < IN(l))

static real *reserve(arena *from, int64_t count) {
  real *start = from->base ? from->base + from->used : NULL;
  from->used += PADDED(count);
  return start;
}

static void reserve_weights(const network *net, arena *from, weights *w) {
  EACH_LAYER(l) {
    w->down[l] = reserve(from, IN(l) * PADDED(OUT(l)));
    w->up[l] = l ? reserve(from, OUT(l) * PADDED(IN(l))) : NULL;
    w->bias[l] = reserve(from, OUT(l));
  }
}

static void reserve_block(const network *net, arena *from, block *b, int with_backward) {
  EACH_LAYER(l) b->after[l] = reserve(from, BLOCK * PADDED(OUT(l)));
  if (!with_backward) return;
  EACH_LAYER(l) b->pulled[l] = l + 1 < net->layers ? reserve(from, BLOCK * PADDED(OUT(l))) : NULL;
  b->cotangent = reserve(from, BLOCK * PADDED(OUT(net->layers - 1)));
}

static void reserve_work(const network *net, arena *from, work *w) {
  int64_t outputs = OUT(net->layers - 1);
  w->net = net;
  reserve_weights(net, from, &w->at);
  reserve_weights(net, from, &w->along);
  reserve_block(net, from, &w->own, 1);
  EACH_LAYER(l) {
    int64_t size = BLOCK * PADDED(OUT(l));
    w->delta[l] = reserve(from, size);
    w->tangent[l] = reserve(from, size);
    w->second[l] = reserve(from, size);
    w->sum_weight[l] = reserve(from, IS_NARROW(l) ? OUT(l) * PADDED(IN(l)) : IN(l) * PADDED(OUT(l)));
    w->sum_bias[l] = reserve(from, OUT(l));
  }
  w->log_std_tangent = reserve(from, outputs);
  w->sum_log_std = reserve(from, outputs);
  w->unused_log_std = reserve(from, outputs);
  w->head.distribution = net->distribution;
  w->head.size = outputs;
  w->head.log_std = reserve(from, outputs);
  w->head.precision = reserve(from, outputs);
  w->head.first = reserve(from, outputs);
  w->head.second = reserve(from, outputs);
}

/* Returns the memory of one task, to be freed as `base` of `from`; 0 if there is none. */
static int make_work(const network *net, arena *from, work *w) {
  *from = (arena){NULL, 0};
  reserve_work(net, from, w);
  int64_t bytes = (from->used * (int64_t)sizeof(real) + 63) / 64 * 64;
  *from = (arena){aligned_alloc(64, bytes), 0};
  if (from->base == NULL) return 0;
  memset(from->base, 0, bytes);
  reserve_work(net, from, w);
  return 1;
}

static void load_weights(const network *net, const real *parameters, weights *w, int with_up) {
  EACH_LAYER(l) {
    const real *weight = parameters + net->weights[l];
    transpose(OUT(l), IN(l), weight, IN(l), w->down[l], PADDED(OUT(l)));
    if (l && with_up) pad(OUT(l), IN(l), weight, IN(l), w->up[l], PADDED(IN(l)));
    pad(1, OUT(l), parameters + net->biases[l], OUT(l), w->bias[l], PADDED(OUT(l)));
  }
}

static void load_head(const network *net, const real *parameters, head *h) {
  if (net->distribution != GAUSSIAN) return;
  EACH_OUTPUT(k) {
    real log_std = parameters[net->log_std + k], low = net->min_log_std;
    h->log_std[k] = log_std < low ? low : log_std;
    h->precision[k] = EXP(-2 * h->log_std[k]);
  }
}

/* Whether log_std of an output is limited: it has no influence then. The limit is a `real`, as in load_head and torch. */
static int is_limited(const network *net, const real *parameters, int64_t k) {
  return parameters[net->log_std + k] < (real)net->min_log_std;
}

static void add_bias(int64_t rows, int64_t row, const real *bias, real *a) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < row; j += LANES) *(vector *)(a + r * row + j) += *(const vector *)(bias + j);
}

/* a = φ(a + b) of each row. */
static void activate(int64_t activation, int64_t rows, int64_t row, const real *bias, real *a) {
  const int64_t step = MOST_VECTORS * LANES;
  int64_t i = 0, count = rows * row;
  add_bias(rows, row, bias, a);
  if (activation == TANH) {
    for (; i + step <= count; i += step) {
      vector some[MOST_VECTORS];
      for (int j = 0; j < MOST_VECTORS; j++) some[j] = *(const vector *)(a + i + j * LANES);
      tanh_of(MOST_VECTORS, some);
      for (int j = 0; j < MOST_VECTORS; j++) *(vector *)(a + i + j * LANES) = some[j];
    }
    for (; i < count; i += LANES) *(vector *)(a + i) = vector_tanh(*(const vector *)(a + i));
  } else {
    for (; i < count; i += LANES) {
      vector z = *(const vector *)(a + i);
      *(vector *)(a + i) = choose(z < 0, (vector){0}, z);
    }
  }
}

INLINE vector pulled_back(int64_t activation, vector g, vector a) {
  if (activation == TANH) return g - g * a * a;
  return choose(a <= 0, (vector){0}, g);
}

/* to = (from + bias) ∘ φ'(a) of each row. */
static void pull(int64_t activation, int64_t rows, int64_t row, const real *from, const real *bias, const real *a,
                 real *to) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < row; j += LANES) {
      int64_t i = r * row + j;
      vector g = *(const vector *)(from + i) + (bias ? *(const vector *)(bias + j) : (vector){0});
      *(vector *)(to + i) = pulled_back(activation, g, *(const vector *)(a + i));
    }
}

/* to = to ∘ φ'(a) + q ∘ s ∘ φ''(a) of `count` numbers. */
static void bend(int64_t activation, int64_t count, const real *a, const real *q, const real *s, real *to) {
  for (int64_t i = 0; i < count; i += LANES) {
    vector at = *(const vector *)(a + i), g = pulled_back(activation, *(vector *)(to + i), at);
    if (activation == TANH) g -= 2 * at * *(const vector *)(q + i) * *(const vector *)(s + i);
    *(vector *)(to + i) = g;
  }
}

static void sum_rows(int64_t rows, int64_t row, const real *from, real *sum) {
  for (int64_t j = 0; j < row; j += LANES) {
    vector total = *(vector *)(sum + j);
    for (int64_t r = 0; r < rows; r++) total += *(const vector *)(from + r * row + j);
    *(vector *)(sum + j) = total;
  }
}

/* Adds δᵀ a to the sum of a layer, for cotangents δ of its outputs, and its inputs a. */
static void add_outer(const work *w, int64_t l, int64_t rows, const real *cotangent, const real *below, int64_t row) {
  const network *net = w->net;
  int64_t out_row = PADDED(OUT(l));
  if (IS_NARROW(l))
    multiply(OUT(l), IN(l), rows, cotangent, 1, out_row, below, row, w->sum_weight[l], PADDED(IN(l)), 1);
  else
    multiply(IN(l), OUT(l), rows, below, 1, row, cotangent, out_row, w->sum_weight[l], out_row, 1);
}

static void forward(const work *w, int64_t rows, const real *input, const block *b) {
  const network *net = w->net;
  EACH_LAYER(l) {
    int64_t row = PADDED(OUT(l));
    multiply(rows, OUT(l), IN(l), l ? b->after[l - 1] : input, l ? PADDED(IN(l)) : IN(l), 1, w->at.down[l], row,
             b->after[l], row, 0);
    if (l + 1 < net->layers)
      activate(net->activation, rows, row, w->at.bias[l], b->after[l]);
    else
      add_bias(rows, row, w->at.bias[l], b->after[l]);
  }
}

/* δ_l of the hidden layers, from δ_L; with `known`, from the s_l that are in the block. */
static void backward(const work *w, int64_t rows, const block *b, int known) {
  const network *net = w->net;
  for (int64_t l = net->layers - 1; l > 0; l--) {
    int64_t row = PADDED(IN(l));
    const real *above = l + 1 < net->layers ? w->delta[l] : b->cotangent;
    if (!known)
      multiply(rows, IN(l), OUT(l), above, PADDED(OUT(l)), 1, w->at.up[l], row, b->pulled[l - 1], row, 0);
    pull(net->activation, rows, row, b->pulled[l - 1], NULL, b->after[l - 1], w->delta[l - 1]);
  }
}

static const real *delta_of(const work *w, const block *b, int64_t l) {
  return l + 1 < w->net->layers ? w->delta[l] : b->cotangent;
}

/* Adds the gradient of a block to the sums; returns Σ ℓ. */
static double gradient_of_block(const work *w, const criterion *c, int64_t rows, const real *input, const block *b) {
  const network *net = w->net;
  int64_t last = net->layers - 1;
  forward(w, rows, input, b);
  double value =
      add_gradient(&w->head, c, rows, b->after[last], PADDED(OUT(last)), b->cotangent, w->sum_log_std);
  backward(w, rows, b, 0);
  EACH_LAYER(l) {
    add_outer(w, l, rows, delta_of(w, b, l), l ? b->after[l - 1] : input, l ? PADDED(IN(l)) : IN(l));
    sum_rows(rows, PADDED(OUT(l)), delta_of(w, b, l), w->sum_bias[l]);
  }
  return value;
}

/* q_l of every layer, the last one without φ'. */
static void push(const work *w, int64_t rows, const real *input, const block *b) {
  const network *net = w->net;
  EACH_LAYER(l) {
    int64_t row = PADDED(OUT(l));
    real *to = w->tangent[l];
    multiply(rows, OUT(l), IN(l), l ? b->after[l - 1] : input, l ? PADDED(IN(l)) : IN(l), 1, w->along.down[l], row, to,
             row, 0);
    if (l) multiply(rows, OUT(l), IN(l), w->tangent[l - 1], PADDED(IN(l)), 1, w->at.down[l], row, to, row, 1);
    if (l + 1 < net->layers)
      pull(net->activation, rows, row, to, w->along.bias[l], b->after[l], to);
    else
      add_bias(rows, row, w->along.bias[l], to);
  }
}

/* Adds the gradient of a further criterion in the outputs to ε_L. */
static void add_further(const work *w, const criterion *further, int64_t rows, const block *b) {
  const network *net = w->net;
  int64_t last = net->layers - 1, row = PADDED(OUT(last));
  add_gradient(&w->head, further, rows, b->after[last], row, w->delta[last], w->sum_log_std);
  for (int64_t i = 0; i < rows * row; i += LANES)
    *(vector *)(w->second[last] + i) += *(const vector *)(w->delta[last] + i);
}

/* Adds the product of a block to the sums, and the gradient of a further criterion, if it is not NULL. */
static void product_of_block(const work *w, const criterion *c, const criterion *further, int64_t rows,
                             const real *input, const block *b, int gauss_newton) {
  const network *net = w->net;
  int64_t last = net->layers - 1;
  push(w, rows, input, b);
  (gauss_newton ? add_fisher : add_hessian)(&w->head, c, rows, b->after[last], PADDED(OUT(last)), w->tangent[last],
                                            w->log_std_tangent, w->second[last], w->sum_log_std);
  if (further != NULL) add_further(w, further, rows, b);
  for (int64_t l = last; l >= 0; l--) {
    int64_t row = l ? PADDED(IN(l)) : IN(l), above = PADDED(OUT(l));
    real *to = l ? w->second[l - 1] : NULL;
    add_outer(w, l, rows, w->second[l], l ? b->after[l - 1] : input, row);
    sum_rows(rows, above, w->second[l], w->sum_bias[l]);
    if (!l) continue;
    multiply(rows, IN(l), OUT(l), w->second[l], above, 1, w->at.up[l], row, to, row, 0);
    if (gauss_newton) {
      pull(net->activation, rows, row, to, NULL, b->after[l - 1], to);
    } else {
      add_outer(w, l, rows, delta_of(w, b, l), w->tangent[l - 1], row);
      multiply(rows, IN(l), OUT(l), delta_of(w, b, l), above, 1, w->along.up[l], row, to, row, 1);
      bend(net->activation, rows * row, b->after[l - 1], w->tangent[l - 1], b->pulled[l - 1], to);
    }
  }
}

static void clear_sums(const work *w) {
  const network *net = w->net;
  EACH_LAYER(l) {
    memset(w->sum_weight[l], 0,
           (IS_NARROW(l) ? OUT(l) * PADDED(IN(l)) : IN(l) * PADDED(OUT(l))) * sizeof(real));
    memset(w->sum_bias[l], 0, PADDED(OUT(l)) * sizeof(real));
  }
  memset(w->sum_log_std, 0, w->head.size * sizeof(real));
}

/* Writes the sums as a vector of parameters. */
static void store_sums(const work *w, const real *parameters, real *to) {
  const network *net = w->net;
  const head *h = &w->head;
  EACH_LAYER(l) {
    real *weight = to + net->weights[l];
    if (IS_NARROW(l))
      for (int64_t i = 0; i < OUT(l); i++)
        memcpy(weight + i * IN(l), w->sum_weight[l] + i * PADDED(IN(l)), IN(l) * sizeof(real));
    else
      for (int64_t i = 0; i < OUT(l); i++)
        for (int64_t j = 0; j < IN(l); j++) weight[i * IN(l) + j] = w->sum_weight[l][j * PADDED(OUT(l)) + i];
    memcpy(to + net->biases[l], w->sum_bias[l], OUT(l) * sizeof(real));
  }
  if (net->distribution == GAUSSIAN)
    EACH_OUTPUT(k) to[net->log_std + k] = is_limited(net, parameters, k) ? 0 : w->sum_log_std[k];
}

#endif
