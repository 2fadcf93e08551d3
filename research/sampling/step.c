/* Steps rows of simulations in one call. stepping.py documents it. */

#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include <mujoco/mujoco.h>

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

static _Thread_local jmp_buf escape;
static _Thread_local char *message;
static _Thread_local int64_t message_size;

static void on_error(const char *text) {
  strncpy(message, text, message_size - 1);
  longjmp(escape, 1);
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
  j->blown_up[i] = 0;
  for (int64_t w = j->first_warning; w <= j->last_warning; w++) {
    if (d->warning[w].number != j->silent) j->blown_up[i] = 1;
    d->warning[w].number = (int)j->silent;
  }
}

/* Steps rows in `d` until none is left; `source` are the fields of `d`. Returns 0, or 1 and the text of an error. */
int step_rows(const functions *mj, job *j, mjData *d, const double *const *source, char *error, int64_t error_size) {
  error_fn previous = mj->get_error();
  message = error;
  message_size = error_size;
  if (setjmp(escape)) {
    mj->set_error(previous);
    return 1;
  }
  mj->set_error(on_error);
  for (int64_t i = atomic_fetch_add(&j->next, 1); i < j->count; i = atomic_fetch_add(&j->next, 1))
    step_row(mj, j, d, source, i);
  mj->set_error(previous);
  return 0;
}
