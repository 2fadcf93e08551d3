/* Steps rows of simulations without Python in between. See native.py, which compiles it and says what is what. */

#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include <mujoco/mujoco.h>

typedef void (*error_fn)(const char *);

typedef struct {
  void (*step)(const mjModel *, mjData *);
  void (*contact_forces)(const mjModel *, mjData *); /* NULL: not wanted */
  error_fn (*get_error)(void);
  void (*set_error)(error_fn);
} functions;

static _Thread_local jmp_buf escape;
static _Thread_local char *message;
static _Thread_local int64_t message_size;

static void on_error(const char *text) {
  strncpy(message, text, message_size - 1);
  longjmp(escape, 1);
}

/* Takes rows until none is left; threads that share `next` share the rows. Returns 0, or 1 with the error's text. */
int step_rows(const functions *mj, const mjModel *const *model, mjData *const *data, const int64_t *rows, int64_t count,
              _Atomic int64_t *next, int64_t frame_skip, const double *control, int64_t num_controls, double *core,
              int64_t core_start, int64_t core_size, char *error, int64_t error_size) {
  error_fn previous = mj->get_error();
  message = error;
  message_size = error_size;
  if (setjmp(escape)) {
    mj->set_error(previous);
    return 1;
  }
  mj->set_error(on_error);
  for (int64_t i = atomic_fetch_add(next, 1); i < count; i = atomic_fetch_add(next, 1)) {
    const mjModel *m = model[rows[i]];
    mjData *d = data[rows[i]];
    memcpy(d->ctrl, control + i * num_controls, num_controls * sizeof(double));
    for (int64_t k = 0; k < frame_skip; k++) mj->step(m, d);
    if (mj->contact_forces) mj->contact_forces(m, d);
    memcpy(core + i * core_size, d->qpos + core_start, core_size * sizeof(double));
  }
  mj->set_error(previous);
  return 0;
}
