/* A multilayer perceptron with a criterion of its output: values, gradients, and products with the Hessian or the
   Gauss-Newton matrix, for many tasks with parameters of their own, or with the same ones. perceptron.h has the
   equations of the network, criteria.h those of the criteria.

   The block of a gradient can be kept for the products that follow at the same parameters: its hidden layers and their
   cotangents. Otherwise the products compute them again. Results do not depend on the thread, nor on the number of
   tasks of a call. The functions return −1 if there is no memory, −2 if an action is none of a categorical
   distribution's, otherwise 0. */

#include "perceptron.h"

/* input [tasks, rows, in]; the parameters of task t begin at t * stride, so that all tasks share them if that is 0. */
typedef struct {
  int64_t tasks, rows, stride;
  const real *input, *parameters;
} batch;

#define EACH_BLOCK(start) for (int64_t start = 0; start < data->rows; start += BLOCK)
#define ROWS_FROM(start) (data->rows - start < BLOCK ? data->rows - start : BLOCK)

/* Whether the actions are among those of a categorical distribution, whose arrays they index. */
static int has_actions(const network *net, const batch *data, const criterion *c) {
  if (net->distribution != CATEGORICAL || c->target == NULL) return 1;
  const int64_t *action = c->target, *end = action + data->tasks * data->rows;
  for (; action < end; action++)
    if (*action < 0 || *action >= OUT(net->layers - 1)) return 0;
  return 1;
}

static const real *input_of(const network *net, const batch *data, int64_t task, int64_t start) {
  return data->input + (task * data->rows + start) * IN(0);
}

/* Numbers of a kept block, and of all blocks of a task. */
static int64_t kept_block(const network *net, int with_backward) {
  arena counted = {NULL, 0};
  block unused;
  reserve_block(net, &counted, &unused, with_backward);
  return counted.used;
}

int64_t mlp_kept(const network *net, int64_t rows, int64_t with_backward) {
  return (rows + BLOCK - 1) / BLOCK * kept_block(net, (int)with_backward);
}

/* The block of `kept` at `start` of a task, or the one of the task's memory if nothing is kept. */
static block block_at(const work *w, const batch *data, real *kept, int with_backward, int64_t task, int64_t start) {
  if (kept == NULL) return w->own;
  int64_t each = kept_block(w->net, with_backward);
  arena from = {kept + ((data->rows + BLOCK - 1) / BLOCK * task + start / BLOCK) * each, 0};
  block found = {0};
  reserve_block(w->net, &from, &found, with_backward);
  return found;
}

/* Output [tasks, rows, out]; the hidden layers stay in `kept`, if it is not NULL. */
int mlp_forward(const network *net, const batch *data, real *output, real *kept) {
  work w;
  arena memory;
  if (!make_work(net, &memory, &w)) return -1;
  int64_t last = net->layers - 1, size = OUT(last);
  for (int64_t task = 0; task < data->tasks; task++) {
    if (task == 0 || data->stride) load_weights(net, data->parameters + task * data->stride, &w.at, 0);
    EACH_BLOCK(start) {
      block b = block_at(&w, data, kept, 0, task, start);
      forward(&w, ROWS_FROM(start), input_of(net, data, task, start), &b);
      for (int64_t r = 0; r < ROWS_FROM(start); r++, output += size)
        memcpy(output, b.after[last] + r * PADDED(size), size * sizeof(real));
    }
  }
  free(memory.base);
  return 0;
}

/* The criterion of given outputs, value [tasks]. */
int mlp_value(const network *net, const batch *data, const criterion *c, const real *output, real *value) {
  work w;
  arena memory;
  if (!has_actions(net, data, c)) return -2;
  if (!make_work(net, &memory, &w)) return -1;
  for (int64_t task = 0; task < data->tasks; task++) {
    criterion own = rows_of(c, &w.head, task, data->rows, 0);
    load_head(net, data->parameters + task * data->stride, &w.head);
    value[task] = add_value(&w.head, &own, data->rows, output + task * data->rows * w.head.size, w.head.size);
  }
  free(memory.base);
  return 0;
}

/* The criterion, value [tasks], and its gradient [tasks, parameters]; `kept` takes the blocks, if it is not NULL. */
int mlp_gradient(const network *net, const batch *data, const criterion *c, real *value, real *gradient, real *kept) {
  work w;
  arena memory;
  if (!has_actions(net, data, c)) return -2;
  if (!make_work(net, &memory, &w)) return -1;
  for (int64_t task = 0; task < data->tasks; task++) {
    const real *parameters = data->parameters + task * data->stride;
    double sum = 0;
    if (task == 0 || data->stride) load_weights(net, parameters, &w.at, 1);
    load_head(net, parameters, &w.head);
    clear_sums(&w);
    EACH_BLOCK(start) {
      block b = block_at(&w, data, kept, 1, task, start);
      criterion own = rows_of(c, &w.head, task, data->rows, start);
      sum += gradient_of_block(&w, &own, ROWS_FROM(start), input_of(net, data, task, start), &b);
    }
    value[task] = sum;
    store_sums(&w, parameters, gradient + task * net->parameters);
  }
  free(memory.base);
  return 0;
}

/* Products [tasks, parameters] of the Hessian or the Gauss-Newton matrix with vectors, that of task t at
   t * vector_stride, plus the gradient of a further criterion, if it is not NULL. `kept` has the blocks of
   mlp_gradient, or of mlp_forward for the Gauss-Newton matrix, or is NULL. */
int mlp_product(const network *net, const batch *data, const criterion *c, const criterion *further,
                const real *vector, int64_t vector_stride, real *product, real *kept, int64_t gauss_newton) {
  work w;
  arena memory;
  if (!has_actions(net, data, c) || (further && !has_actions(net, data, further))) return -2;
  if (!make_work(net, &memory, &w)) return -1;
  const head *h = &w.head;
  int64_t last = net->layers - 1;
  for (int64_t task = 0; task < data->tasks; task++) {
    const real *parameters = data->parameters + task * data->stride, *along = vector + task * vector_stride;
    if (task == 0 || data->stride) load_weights(net, parameters, &w.at, 1);
    if (task == 0 || vector_stride) load_weights(net, along, &w.along, 1);
    load_head(net, parameters, &w.head);
    if (net->distribution == GAUSSIAN)
      EACH_OUTPUT(k) w.log_std_tangent[k] = is_limited(net, parameters, k) ? 0 : along[net->log_std + k];
    clear_sums(&w);
    EACH_BLOCK(start) {
      int64_t rows = ROWS_FROM(start);
      const real *input = input_of(net, data, task, start);
      block b = block_at(&w, data, kept, !gauss_newton, task, start);
      criterion own = rows_of(c, &w.head, task, data->rows, start);
      if (kept == NULL) forward(&w, rows, input, &b);
      if (kept == NULL && !gauss_newton)
        add_gradient(&w.head, &own, rows, b.after[last], PADDED(OUT(last)), b.cotangent, w.unused_log_std);
      if (!gauss_newton) backward(&w, rows, &b, kept != NULL);
      criterion other = rows_of(further ? further : c, &w.head, task, data->rows, start);
      product_of_block(&w, &own, further ? &other : NULL, rows, input, &b, (int)gauss_newton);
    }
    store_sums(&w, parameters, product + task * net->parameters);
  }
  free(memory.base);
  return 0;
}
