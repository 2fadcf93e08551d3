/* The loss of PPO on the outputs of a network, its terms, and its derivative by the outputs, in one pass over the steps.

   With means over the N valid steps, the ratio ρ = exp(log p(a) − log p_old(a)), the advantage A, the entropy H, the
   value v and its target y:

       f = −mean min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) − c_H mean H + c_v ½ mean (v − y)²
       terms: the first mean with its sign, ½ mean (v − y)², mean H, mean ρ − 1 − log ρ, mean [|ρ − 1| > ε]

   The first mean is a criterion of criteria.h, which has its derivative. Of the others:

       categorical, p = softmax(o):  H = −Σ p log p,  ∂H/∂o = −p (log p + H)
       normal:                       H = Σ (s + ½ log 2πe),  ∂H/∂s = 1
       ∂f/∂v = c_v (v − y) / N

   Steps that are not valid have derivative 0, and none of their numbers is read. */

#include <stdlib.h>

#include "criteria.h"

#define BLOCK 256 /* steps whose sums are in the precision of the numbers */

/* Python has the same struct. */
typedef struct {
  int64_t steps, size, is_gaussian;
  int64_t output_row, value_row; /* numbers from one step to the next */
  const real *output;            /* logits or means [steps, size] */
  const real *value;             /* v [steps] */
  const real *log_std;           /* s [size]; NULL if categorical */
  const void *action;            /* real [steps, size]; int64 [steps] if categorical */
  const real *log_prob, *advantage, *target; /* [steps] */
  const uint8_t *valid;                      /* [steps] */
  real *to_output, *to_value, *to_log_std;   /* [steps, size], [steps], [size]; the last NULL if categorical */
  double *terms;                             /* [5] */
  double clip, entropy_coef, value_coef;
} loss_job;

/* Adds the policy's terms of a step, and writes their derivative. Returns whether the action exists. */
static int add_policy(const loss_job *j, const head *h, int64_t at, real share, real *to_log_std) {
  const real *output = j->output + at * j->output_row;
  const real weight = j->advantage[at] * share, *old = j->log_prob + at;
  real *to_output = j->to_output + at * h->size, entropy = 0, own;
  criterion c = {.kind = CLIPPED, .weight = &weight, .log_prob = old, .clip = j->clip};
  if (h->distribution == CATEGORICAL) {
    const int64_t *action = (const int64_t *)j->action + at;
    if (*action < 0 || *action >= h->size) return 0;
    c.target = action;
    real total = softmax(h, output, h->first);
    own = output[*action] - total;
    EACH_OUTPUT(k) entropy -= h->first[k] * (h->second[k] = output[k] - total);
  } else {
    c.target = (const real *)j->action + at * h->size;
    own = log_prob(h, &c, 0, output);
    EACH_OUTPUT(k) entropy += h->log_std[k] + (real)1.41893853320467274178; /* ½ log 2πe */
  }
  jet loss = of_log_prob(&c, 0, own);
  row_gradient(h, &c, 0, loss.slope, output, to_output, to_log_std);
  real bonus = (real)j->entropy_coef * share, log_ratio = own - *old, beyond = EXP(log_ratio) - 1;
  if (h->distribution == CATEGORICAL)
    EACH_OUTPUT(k) to_output[k] += bonus * h->first[k] * (h->second[k] + entropy);
  else
    EACH_OUTPUT(k) to_log_std[k] -= bonus;
  j->terms[0] += loss.value;
  j->terms[2] += entropy;
  j->terms[3] += beyond - log_ratio;
  j->terms[4] += (beyond < 0 ? -beyond : beyond) > (real)j->clip;
  return 1;
}

/* Writes all results. Returns 0, 1 without memory, or 2 if an action does not exist. */
int ppo_loss(const loss_job *j) {
  const int64_t size = j->size;
  real *room = calloc(5 * size, sizeof(real));
  if (!room) return 1;
  head all = {j->is_gaussian ? GAUSSIAN : CATEGORICAL, size, room, room + size, room + 2 * size, room + 3 * size};
  const head *h = &all;
  real *sums = room + 4 * size;
  int64_t count = 0, exist = 1;
  for (int64_t at = 0; at < j->steps; at++) count += j->valid[at] != 0;
  const real share = (real)1 / (count ? count : 1);
  if (j->is_gaussian) EACH_OUTPUT(k) {
      h->log_std[k] = j->log_std[k];
      h->precision[k] = EXP(-2 * j->log_std[k]);
      j->to_log_std[k] = 0;
    }
  for (int term = 0; term < 5; term++) j->terms[term] = 0;
  for (int64_t first = 0; first < j->steps; first += BLOCK) {
    int64_t end = j->steps - first < BLOCK ? j->steps : first + BLOCK;
    memset(sums, 0, size * sizeof(real));
    for (int64_t at = first; at < end; at++) {
      j->to_value[at] = 0;
      if (!j->valid[at]) {
        memset(j->to_output + at * size, 0, size * sizeof(real));
        continue;
      }
      real away = j->value[at * j->value_row] - j->target[at];
      j->to_value[at] = (real)j->value_coef * share * away;
      j->terms[1] += (real)0.5 * away * away;
      exist &= add_policy(j, h, at, share, sums);
    }
    if (j->is_gaussian) EACH_OUTPUT(k) j->to_log_std[k] += sums[k];
  }
  for (int term = 1; term < 5; term++) j->terms[term] /= count ? count : 1; /* the weights of the first are shares */
  free(room);
  return exist ? 0 : 2;
}
