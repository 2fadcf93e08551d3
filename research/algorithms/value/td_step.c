/* A Q-network that is one multilayer perceptron: its values, and the gradient of its TD loss, for one task or several.

   Columns are the rows of a minibatch, so that the weights [out, in] are read as they lie in memory:

     forward    A_0 = xᵀ,  A_l = φ(W_l A_{l−1} + b_l),  Q = W_L A_{L−1} + b_L
     error      δ = Q(s, a) − y,  D_L[a] = w clip(δ) / batch size, other actions 0; no clip for the squared loss
     backward   dW_l = D_l A_{l−1}ᵀ,  db_l = Σ D_l,  D_{l−1} = W_lᵀ D_l ∘ φ'(A_{l−1})

   A unit of ReLU that is 0 in all rows adds nothing to the products above it, and its gradients are 0. More than half of
   the units of a Q-network may be so. `active` lists the others, and only they are multiplied. */

#include "matrix.h"

#define COLUMNS 64 /* rows of observations that are evaluated together, when only values are wanted */
#define ROWS 24    /* rows of a weight gradient that are made together: they stay in the cache until they are copied */

typedef struct {
  int64_t layers, is_tanh, is_huber;
  const int64_t *size;       /* numbers of each layer, the observation first: layers + 1 */
  int64_t tasks, rows;       /* rows of each task */
  int64_t num_parameters;    /* of each task */
  const real *parameters;    /* [tasks, num_parameters]: W_1, b_1, W_2, ... */
  const real *observation;   /* [tasks, rows, size[0]] */
  real *values;              /* [tasks, rows, actions], of td_values */
  const int64_t *action;     /* [tasks, rows], this and the rest of td_gradient */
  const real *target;        /* y [tasks, rows] */
  const real *weight;        /* w [tasks, rows] */
  real *gradient;            /* [tasks, num_parameters] */
  real *error;               /* δ [tasks, rows] */
  real *scratch;             /* td_scratch(job) numbers */
} job;

/* Rows of a matrix that are not zero everywhere. */
typedef struct {
  int64_t count, *row;
} active;

static int64_t widest(const job *j) {
  int64_t most = 0;
  for (int64_t l = 0; l <= j->layers; l++) most = j->size[l] > most ? j->size[l] : most;
  return most;
}

static int64_t num_indices(const job *j) { return PADDED(widest(j) * (int64_t)(sizeof(int64_t) / sizeof(real))); }

/* Numbers of scratch that td_gradient needs, which are enough for td_values too. */
int64_t td_scratch(const job *j) {
  int64_t wide = PADDED(widest(j)), columns = PADDED(j->rows > COLUMNS ? j->rows : COLUMNS), layers = 0;
  for (int64_t l = 0; l <= j->layers; l++) layers += j->size[l] * columns + num_indices(j);
  return layers + 2 * (wide * columns + num_indices(j)) + columns * wide + ROWS * (columns + wide);
}

/* Takes numbers from the scratch. */
static real *take(real **scratch, int64_t numbers) {
  real *taken = *scratch;
  *scratch += numbers;
  return taken;
}

static real total(vector lanes) {
  real sum = 0;
  for (int64_t lane = 0; lane < LANES; lane++) sum += lanes[lane];
  return sum;
}

static void find_active(int64_t rows, int64_t columns, const real *matrix, active *found) {
  found->count = 0;
  for (int64_t i = 0; i < rows; i++) {
    whole any = (whole)(vector){0};
    for (int64_t j = 0; j < columns; j += LANES) any |= *(const vector *)(matrix + i * columns + j) != 0;
    int64_t is_active = 0;
    for (int64_t lane = 0; lane < LANES; lane++) is_active |= any[lane];
    if (is_active) found->row[found->count++] = i;
  }
}

static void activate(const job *j, int64_t numbers, real *a) {
  for (int64_t i = 0; i < numbers; i += LANES) {
    vector *z = (vector *)(a + i);
    if (j->is_tanh)
      *z = vector_tanh(*z);
    else
      *z = choose(*z < 0, (vector){0}, *z); /* NaN stays NaN */
  }
}

/* d ← d ∘ φ'(a) */
static void pull(const job *j, int64_t numbers, const real *a, real *d) {
  for (int64_t i = 0; i < numbers; i += LANES) {
    vector at = *(const vector *)(a + i), *to = (vector *)(d + i);
    if (j->is_tanh)
      *to *= 1 - at * at;
    else
      *to = choose(at <= 0, (vector){0}, *to);
  }
}

/* above [out, columns] = W below + b */
static void affine(int64_t out, int64_t in, int64_t columns, const real *weight, const real *below, const active *used,
                   real *above) {
  const real *bias = weight + out * in;
  for (int64_t i = 0; i < out; i++)
    for (int64_t c = 0; c < columns; c += LANES) *(vector *)(above + i * columns + c) = (vector){0} + bias[i];
  multiply_chosen(out, columns, used->count, used->row, weight, in, 1, below, columns, above, columns, 1);
}

/* The same for a single column: each output is one sum over vectors of a row of W. */
static void affine_column(int64_t out, int64_t in, const real *weight, const real *below, real *above) {
  const real *bias = weight + out * in;
  for (int64_t i = 0; i < out; i++, weight += in) {
    vector sum[4] = {0};
    int64_t k = 0;
    for (; k + 4 * LANES <= in; k += 4 * LANES)
      for (int64_t n = 0; n < 4; n++)
        sum[n] += *(const vector *)(weight + k + n * LANES) * *(const vector *)(below + k + n * LANES);
    for (; k + LANES <= in; k += LANES) sum[0] += *(const vector *)(weight + k) * *(const vector *)(below + k);
    real rest = bias[i];
    for (; k < in; k++) rest += weight[k] * below[k];
    above[i] = total((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
  }
}

static const real *next_layer(const real *weight, int64_t out, int64_t in) { return weight + out * in + out; }

static void values_of_one(const job *j, const real *weight, const real *observation, real *values, real *scratch) {
  real *layer[2] = {take(&scratch, PADDED(widest(j))), take(&scratch, PADDED(widest(j)))};
  const real *below = observation;
  for (int64_t l = 0; l < j->layers; l++) {
    int64_t in = j->size[l], out = j->size[l + 1];
    real *above = l == j->layers - 1 ? values : layer[l % 2];
    affine_column(out, in, weight, below, above);
    if (l < j->layers - 1) activate(j, PADDED(out), above);
    weight = next_layer(weight, out, in);
    below = above;
  }
}

static void values_of_block(const job *j, const real *weight, int64_t rows, const real *observation, real *values,
                            real *scratch) {
  int64_t columns = PADDED(rows), actions = j->size[j->layers];
  real *layer[2] = {take(&scratch, PADDED(widest(j)) * columns), take(&scratch, PADDED(widest(j)) * columns)};
  active used = {0, (int64_t *)take(&scratch, num_indices(j))};
  transpose(rows, j->size[0], observation, j->size[0], layer[0], columns);
  for (int64_t l = 0; l < j->layers; l++) {
    int64_t in = j->size[l], out = j->size[l + 1];
    find_active(in, columns, layer[l % 2], &used);
    affine(out, in, columns, weight, layer[l % 2], &used, layer[(l + 1) % 2]);
    if (l < j->layers - 1) activate(j, out * columns, layer[(l + 1) % 2]);
    weight = next_layer(weight, out, in);
  }
  const real *last = layer[j->layers % 2];
  for (int64_t row = 0; row < rows; row++)
    for (int64_t action = 0; action < actions; action++) values[row * actions + action] = last[action * columns + row];
}

/* Q(s, ·) of every row of every task. */
void td_values(const job *j) {
  int64_t in = j->size[0], actions = j->size[j->layers];
  for (int64_t task = 0; task < j->tasks; task++) {
    const real *weight = j->parameters + task * j->num_parameters;
    for (int64_t row = task * j->rows, stop = row + j->rows; row < stop; row += COLUMNS) {
      int64_t rows = stop - row < COLUMNS ? stop - row : COLUMNS;
      const real *observation = j->observation + row * in;
      if (j->rows == 1)
        values_of_one(j, weight, observation, j->values + row * actions, j->scratch);
      else
        values_of_block(j, weight, rows, observation, j->values + row * actions, j->scratch);
    }
  }
}

/* dW = D Aᵀ and db = Σ D, for D [out, columns], which is zero beyond `rows` and in the rows that are not `used`, and
   Aᵀ [rows, PADDED(in)]. */
static void weight_gradient(int64_t rows, int64_t out, int64_t in, int64_t columns, const real *d, const active *used,
                            const real *turned, real *gradient, real *scratch) {
  int64_t wide = PADDED(in);
  real *factor = take(&scratch, ROWS * columns), *made = take(&scratch, ROWS * wide), *bias = gradient + out * in;
  memset(gradient, 0, (out * in + out) * sizeof(real));
  for (int64_t first = 0; first < used->count; first += ROWS) {
    int64_t count = used->count - first < ROWS ? used->count - first : ROWS;
    for (int64_t i = 0; i < count; i++)
      memcpy(factor + i * columns, d + used->row[first + i] * columns, columns * sizeof(real));
    multiply(count, in, rows, factor, columns, 1, turned, wide, made, wide, 0);
    for (int64_t i = 0; i < count; i++) {
      memcpy(gradient + used->row[first + i] * in, made + i * wide, in * sizeof(real));
      vector sum = {0};
      for (int64_t c = 0; c < columns; c += LANES) sum += *(const vector *)(factor + i * columns + c);
      bias[used->row[first + i]] = total(sum);
    }
  }
}

/* δ of every row, and D_L [actions, columns]. */
static void td_errors(const job *j, int64_t first, int64_t columns, const real *values, real *d) {
  memset(d, 0, j->size[j->layers] * columns * sizeof(real));
  for (int64_t row = 0; row < j->rows; row++) {
    int64_t at = j->action[first + row] * columns + row;
    real error = values[at] - j->target[first + row], clipped = error > 1 ? 1 : error < -1 ? -1 : error;
    j->error[first + row] = error;
    d[at] = (j->is_huber ? clipped : error) * j->weight[first + row] / (real)j->rows;
  }
}

static void gradient_of_task(const job *j, int64_t task) {
  int64_t columns = PADDED(j->rows), top = j->layers, wide = PADDED(widest(j));
  real *scratch = j->scratch, *layer[top + 1], *d[2];
  active used[top + 1], used_d = {0, (int64_t *)take(&scratch, num_indices(j))};
  const real *weight[top + 1];
  for (int64_t l = 0; l <= top; l++) {
    layer[l] = take(&scratch, j->size[l] * columns);
    used[l].row = (int64_t *)take(&scratch, num_indices(j));
    weight[l] = l ? next_layer(weight[l - 1], j->size[l], j->size[l - 1]) : j->parameters + task * j->num_parameters;
  }
  for (int64_t i = 0; i < 2; i++) d[i] = take(&scratch, wide * columns);
  real *turned = take(&scratch, columns * wide);

  transpose(j->rows, j->size[0], j->observation + task * j->rows * j->size[0], j->size[0], layer[0], columns);
  for (int64_t l = 0; l < top; l++) {
    find_active(j->size[l], columns, layer[l], &used[l]);
    affine(j->size[l + 1], j->size[l], columns, weight[l], layer[l], &used[l], layer[l + 1]);
    if (l < top - 1) activate(j, j->size[l + 1] * columns, layer[l + 1]);
  }
  td_errors(j, task * j->rows, columns, layer[top], d[top % 2]);
  for (int64_t l = top; l > 0; l--) {
    int64_t out = j->size[l], in = j->size[l - 1];
    real *gradient = j->gradient + task * j->num_parameters + (weight[l - 1] - weight[0]);
    find_active(out, columns, d[l % 2], &used_d);
    transpose(in, j->rows, layer[l - 1], columns, turned, PADDED(in));
    weight_gradient(j->rows, out, in, columns, d[l % 2], &used_d, turned, gradient, scratch);
    if (l == 1) break;
    real *below = d[(l - 1) % 2];
    multiply_chosen(in, columns, used_d.count, used_d.row, weight[l - 1], 1, in, d[l % 2], columns, below, columns, 0);
    pull(j, in * columns, layer[l - 1], below);
  }
}

/* The gradient of the TD loss and the TD errors of every task. Returns 0, or −1 if the network has not an action. */
int td_gradient(const job *j) {
  for (int64_t row = 0; row < j->tasks * j->rows; row++)
    if (j->action[row] < 0 || j->action[row] >= j->size[j->layers]) return -1;
  for (int64_t task = 0; task < j->tasks; task++) gradient_of_task(j, task);
  return 0;
}
