/* Steps rows of simulations in one call. stepping.py documents it. */

#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include <mujoco/mujoco.h>

#include "matrix.h"

typedef void (*error_fn)(const char *);

typedef struct {
  void (*step)(const mjModel *, mjData *);
  void (*contact_forces)(const mjModel *, mjData *); /* NULL: not computed */
  void (*get_state)(const mjModel *, const mjData *, mjtNum *, unsigned int);
  void (*set_state)(const mjModel *, mjData *, const mjtNum *, unsigned int);
  error_fn (*get_error)(void);
  void (*set_error)(error_fn);
} functions;

typedef struct {
  const mjModel *const *model; /* of every row */
  double *state;               /* of every row, state_size numbers each */
  int64_t state_size;
  int64_t state_spec;
  const int64_t *rows; /* indices of the rows to step */
  int64_t count;
  _Atomic int64_t next; /* threads that work on one job take rows from here */
  int64_t frame_skip;
  const double *control; /* of each row to step, num_controls numbers each */
  int64_t num_controls;
  int64_t first_warning, last_warning, silent;
  uint8_t *blown_up; /* of each row to step */
  int64_t num_fields;
  const int64_t *field_size; /* numbers of each field */
  double *const *field;      /* output of each field, for each row to step */
} job;

typedef struct {
  int64_t num_layers, is_relu, width; /* width: the most inputs or outputs of a layer */
  const int64_t *size;                /* of the observation and of the outputs of each layer */
  const real *parameters;             /* of each task: of each layer Wᵀ [in, PADDED(out)], then b [PADDED(out)] */
  int64_t num_parameters;             /* of one task */
  const real *std;                    /* of each task, as many numbers as an action has */
  int64_t rows_per_task;
  int64_t num_columns; /* parts of fields that make an observation, in order, clipped to ±limit */
  const int64_t *column_field, *column_start, *column_size;
  const double *limit;
  int64_t first_row, num_rows; /* the arrays below have the rows from first_row on */
  int64_t steps, first, horizon;
  const real *noise;                /* [steps, num_rows, action] */
  real *observation, *mean, *action; /* [num_rows, horizon, ...], written from step `first` on */
  double *const *history;           /* of each field, [steps + 1, num_rows, ...]; the first entry is given */
  uint8_t *blown_up;                /* [steps, num_rows], zeros */
} loop;

static _Thread_local jmp_buf escape;
static _Thread_local char *message;
static _Thread_local int64_t message_size;

static void on_error(const char *text) {
  strncpy(message, text, message_size - 1);
  longjmp(escape, 1);
}

/* Whether a step has blown up; the counts of warnings are set back. */
static uint8_t blew_up(const job *j, mjData *d) {
  uint8_t found = 0;
  for (int64_t w = j->first_warning; w <= j->last_warning; w++) {
    if (d->warning[w].number != j->silent) found = 1;
    d->warning[w].number = (int)j->silent;
  }
  return found;
}

static void step_row(const functions *mj, const job *j, mjData *d, const double *const *source, int64_t i) {
  const mjModel *m = j->model[j->rows[i]];
  double *state = j->state + j->rows[i] * j->state_size;
  mj->set_state(m, d, state, (unsigned int)j->state_spec);
  memcpy(d->ctrl, j->control + i * j->num_controls, j->num_controls * sizeof(double));
  for (int64_t k = 0; k < j->frame_skip; k++) mj->step(m, d);
  if (mj->contact_forces) mj->contact_forces(m, d);
  mj->get_state(m, d, state, (unsigned int)j->state_spec);
  for (int64_t f = 0; f < j->num_fields; f++)
    memcpy(j->field[f] + i * j->field_size[f], source[f], j->field_size[f] * sizeof(double));
  j->blown_up[i] = blew_up(j, d);
}

/* `vectors` vectors of c += a B, for one row a [depth]. */
INLINE void multiply_row(const int vectors, int64_t depth, const real *a, const real *b, int64_t b_row, real *c) {
  vector sum[8];
  _Pragma("GCC unroll 8") for (int j = 0; j < vectors; j++) sum[j] = *(vector *)(c + j * LANES);
  for (int64_t k = 0; k < depth; k++)
    _Pragma("GCC unroll 8") for (int j = 0; j < vectors; j++) sum[j] += a[k] * *(vector *)(b + k * b_row + j * LANES);
  _Pragma("GCC unroll 8") for (int j = 0; j < vectors; j++) *(vector *)(c + j * LANES) = sum[j];
}

/* out [PADDED(outputs)] = in W + b of one layer, whose parameters begin at `weight`. */
static void affine(int64_t inputs, int64_t outputs, const real *in, const real *weight, real *out) {
  int64_t padded = PADDED(outputs), vectors = padded / LANES;
  memcpy(out, weight + inputs * padded, padded * sizeof(real));
#define VECTORS(n) \
  for (; vectors >= n; vectors -= n, weight += n * LANES, out += n * LANES) \
    multiply_row(n, inputs, in, weight, padded, out)
  VECTORS(8);
  VECTORS(4);
  VECTORS(2);
  VECTORS(1);
#undef VECTORS
}

static void activate(int64_t count, int is_relu, real *x) {
  for (int64_t i = 0; i < count; i += LANES) {
    vector *place = (vector *)(x + i), value = *place;
    *place = is_relu ? choose(value < 0, (vector){0}, value) : vector_tanh(value);
  }
}

/* Records the observation, the mean and the action of a row at step t of the loop, and writes the control. */
static void act(const job *j, const loop *l, int64_t row, int64_t t, real *room, mjtNum *control) {
  const int64_t *size = l->size, actions = size[l->num_layers], task = row / l->rows_per_task;
  int64_t place = row * l->horizon + l->first + t;
  real *seen = l->observation + place * size[0], *end = seen;
  for (int64_t c = 0; c < l->num_columns; c++) {
    int64_t f = l->column_field[c];
    const double *from = l->history[f] + (t * l->num_rows + row) * j->field_size[f] + l->column_start[c];
    double limit = l->limit[c];
    for (int64_t k = 0; k < l->column_size[c]; k++)
      *end++ = (real)(from[k] > limit ? limit : from[k] < -limit ? -limit : from[k]);
  }
  const real *in = seen, *weight = l->parameters + task * l->num_parameters;
  real *out = room, *other = room + PADDED(l->width);
  for (int64_t layer = 0; layer < l->num_layers; layer++) {
    affine(size[layer], size[layer + 1], in, weight, out);
    weight += (size[layer] + 1) * PADDED(size[layer + 1]);
    if (layer < l->num_layers - 1) activate(size[layer + 1], (int)l->is_relu, out);
    in = out;
    out = other;
    other = (real *)in;
  }
  const real *std = l->std + task * actions, *noise = l->noise + (t * l->num_rows + row) * actions;
  for (int64_t k = 0; k < actions; k++) {
    real action = in[k] + std[k] * noise[k];
    l->mean[place * actions + k] = in[k];
    l->action[place * actions + k] = action;
    control[k] = action;
  }
}

/* Takes a row through the steps of a loop, or to the first that blows up. */
static void loop_row(const functions *mj, const job *j, const loop *l, mjData *d, const double *const *source,
                     real *room, int64_t i) {
  const mjModel *m = j->model[j->rows[i]];
  double *state = j->state + j->rows[i] * j->state_size;
  int64_t row = j->rows[i] - l->first_row;
  mj->set_state(m, d, state, (unsigned int)j->state_spec);
  for (int64_t t = 0; t < l->steps; t++) {
    act(j, l, row, t, room, d->ctrl);
    for (int64_t k = 0; k < j->frame_skip; k++) mj->step(m, d);
    if (mj->contact_forces) mj->contact_forces(m, d);
    for (int64_t f = 0; f < j->num_fields; f++)
      memcpy(l->history[f] + ((t + 1) * l->num_rows + row) * j->field_size[f], source[f],
             j->field_size[f] * sizeof(double));
    if (blew_up(j, d)) {
      l->blown_up[t * l->num_rows + row] = 1;
      break;
    }
  }
  mj->get_state(m, d, state, (unsigned int)j->state_spec);
}

/* Steps rows in `d` until none is left, under the controls of the job, or through the steps of `l` if that is not NULL.
   `source` are the fields of `d`; `room` has 2 PADDED(width) numbers. Returns 0, or 1 and the text of an error. */
int step_rows(const functions *mj, job *j, const loop *l, mjData *d, const double *const *source, real *room,
              char *error, int64_t error_size) {
  error_fn previous = mj->get_error();
  message = error;
  message_size = error_size;
  if (setjmp(escape)) {
    mj->set_error(previous);
    return 1;
  }
  mj->set_error(on_error);
  for (int64_t i = atomic_fetch_add(&j->next, 1); i < j->count; i = atomic_fetch_add(&j->next, 1))
    if (l)
      loop_row(mj, j, l, d, source, room, i);
    else
      step_row(mj, j, d, source, i);
  mj->set_error(previous);
  return 0;
}

/* The numbers in a vector: rows of weights are padded to whole vectors. */
int64_t lanes(void) { return LANES; }
