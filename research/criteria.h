/* Criteria of the output of a network, for compiled kernels: research/criteria.py has their equations.

   A criterion is a sum of ℓ(o, s) over rows, with o the output of the network for a row, and s the log standard
   deviation of a normal distribution, the same for all rows of a task. All functions add up a block of rows:

       add_value      Σ ℓ
       add_gradient   ∂ℓ/∂o of each row, and Σ ∂ℓ/∂s
       add_hessian    ℓ_oo ȯ + ℓ_os ṡ of each row, and Σ ℓ_so ȯ + ℓ_ss ṡ, for tangents ȯ of each row and ṡ
       add_fisher     the same with w M, the Fisher information of the distribution, for the Hessian of ℓ

   The losses of a log-probability share one code: with l = log p(a | o, s) and ℓ = f(l),

       ∇ℓ = f' ∇l,   ∇²ℓ v = f'' (∇l · v) ∇l + f' ∇²l v

       normal, z = (a − o) / σ²:  ∂l/∂o = z,  ∂l/∂s = (a − o) z − 1,  l_oo = −1/σ²,  l_os = −2 z,  l_ss = −2 (a − o) z
       categorical, p = softmax(o):  ∂l/∂o = 1_a − p,  l_oo = −(diag(p) − p pᵀ) */

#ifndef CRITERIA_H
#define CRITERIA_H

#include <math.h>

#include "matrix.h"

enum { GAUSSIAN, CATEGORICAL, NO_DISTRIBUTION };
enum { LOG_PROB, RATIO, CLIPPED, KL, SQUARED };

#define EXP(x) (FLOAT ? (real)expf((float)(x)) : (real)exp((double)(x)))
#define LOG(x) (FLOAT ? (real)logf((float)(x)) : (real)log((double)(x)))
#define EACH_OUTPUT(k) for (int64_t k = 0; k < h->size; k++)

/* Criterion: its arrays lead with the rows. Python has the same struct. */
typedef struct {
  int64_t kind;
  const real *weight;      /* [rows] */
  const void *target;      /* real [rows, size]; int64 [rows] for actions of a categorical distribution */
  const real *log_prob;    /* [rows]: the denominators of the ratios */
  const real *old;         /* [rows, size]: outputs of the old network */
  const real *old_log_std; /* [size] */
  double clip;
} criterion;

/* Distribution at the output of a network. */
typedef struct {
  int64_t distribution, size;
  real *log_std, *precision; /* s and 1 / σ² */
  real *first, *second;      /* room for the probabilities of a row, and of an old one */
} head;

/* f, f' and f''. */
typedef struct {
  real value, slope, curvature;
} jet;

/* Criterion of the rows of task `task` of a batch from row `start` on. */
static criterion rows_of(const criterion *c, const head *h, int64_t task, int64_t rows, int64_t start) {
  criterion own = *c;
  int64_t row = task * rows + start, each = h->distribution == CATEGORICAL ? sizeof(int64_t) : h->size * sizeof(real);
  own.weight = c->weight + row;
  own.target = c->target ? (const char *)c->target + row * each : NULL;
  own.log_prob = c->log_prob ? c->log_prob + row : NULL;
  own.old = c->old ? c->old + row * h->size : NULL;
  own.old_log_std = c->old_log_std ? c->old_log_std + task * h->size : NULL;
  return own;
}

/* Writes the softmax of a row of outputs, and returns log Σ exp(o). */
static real softmax(const head *h, const real *output, real *probability) {
  real most = output[0], sum = 0;
  EACH_OUTPUT(k) most = output[k] > most ? output[k] : most;
  EACH_OUTPUT(k) sum += probability[k] = EXP(output[k] - most);
  EACH_OUTPUT(k) probability[k] /= sum;
  return most + LOG(sum);
}

/* log p(a); writes the probabilities of a categorical distribution to h->first. */
static real log_prob(const head *h, const criterion *c, int64_t r, const real *output) {
  if (h->distribution == CATEGORICAL) {
    real total = softmax(h, output, h->first);
    return output[((const int64_t *)c->target)[r]] - total;
  }
  const real *action = (const real *)c->target + r * h->size;
  real sum = 0;
  EACH_OUTPUT(k) {
    real away = action[k] - output[k];
    sum -= (real)0.5 * away * away * h->precision[k] + h->log_std[k];
  }
  return sum - (real)0.91893853320467274178 * h->size; /* ½ log 2π */
}

/* ℓ = f(log p) of a row. */
static jet of_log_prob(const criterion *c, int64_t r, real log_prob) {
  real weight = c->weight[r];
  if (c->kind == LOG_PROB) return (jet){-weight * log_prob, -weight, 0};
  real ratio = EXP(log_prob - c->log_prob[r]), loss = -weight * ratio;
  if (c->kind == CLIPPED) {
    real low = 1 - c->clip, high = 1 + c->clip, clipped = ratio < low ? low : ratio > high ? high : ratio;
    if (-weight * clipped > loss) return (jet){-weight * clipped, 0, 0};
  }
  return (jet){loss, loss, loss};
}

/* KL(old ‖ new) of a row; writes the probabilities of categorical distributions to h->first and h->second. */
static real divergence(const head *h, const criterion *c, int64_t r, const real *output) {
  const real *old = c->old + r * h->size;
  real sum = 0;
  if (h->distribution == CATEGORICAL) {
    real shift = softmax(h, output, h->first) - softmax(h, old, h->second);
    EACH_OUTPUT(k) sum += h->second[k] * (old[k] - output[k] + shift);
    return sum;
  }
  EACH_OUTPUT(k) {
    real away = old[k] - output[k], log_ratio = c->old_log_std[k] - h->log_std[k];
    sum += (real)0.5 * (EXP(2 * log_ratio) + away * away * h->precision[k] - 1) - log_ratio;
  }
  return sum;
}

/* Σ_k (o_k − y_k)² of a row. */
static real squared_error(const head *h, const criterion *c, int64_t r, const real *output) {
  const real *target = (const real *)c->target + r * h->size;
  real sum = 0;
  EACH_OUTPUT(k) sum += (output[k] - target[k]) * (output[k] - target[k]);
  return sum;
}

/* ℓ of a row, with f' and f'' if it is a loss of the log-probability. */
static jet row_loss(const head *h, const criterion *c, int64_t r, const real *output) {
  if (c->kind == KL) return (jet){c->weight[r] * divergence(h, c, r, output), 0, 0};
  if (c->kind == SQUARED) return (jet){c->weight[r] * squared_error(h, c, r, output), 0, 0};
  return of_log_prob(c, r, log_prob(h, c, r, output));
}

static double add_value(const head *h, const criterion *c, int64_t rows, const real *output, int64_t row) {
  double sum = 0;
  for (int64_t r = 0; r < rows; r++) sum += row_loss(h, c, r, output + r * row).value;
  return sum;
}

/* Writes ∂ℓ/∂o of a row, and adds ∂ℓ/∂s to `to_log_std`. */
static void row_gradient(const head *h, const criterion *c, int64_t r, real slope, const real *output, real *to_output,
                         real *to_log_std) {
  real weight = c->weight[r];
  const real *old = c->old + r * h->size, *target = (const real *)c->target + r * h->size;
  if (c->kind == SQUARED) {
    EACH_OUTPUT(k) to_output[k] = 2 * weight * (output[k] - target[k]);
  } else if (h->distribution == CATEGORICAL && c->kind == KL) {
    EACH_OUTPUT(k) to_output[k] = weight * (h->first[k] - h->second[k]);
  } else if (h->distribution == CATEGORICAL) {
    EACH_OUTPUT(k) to_output[k] = -slope * h->first[k];
    to_output[((const int64_t *)c->target)[r]] += slope;
  } else if (c->kind == KL) {
    EACH_OUTPUT(k) {
      real away = output[k] - old[k], pull = away * h->precision[k];
      to_output[k] = weight * pull;
      to_log_std[k] += weight * (1 - EXP(2 * (c->old_log_std[k] - h->log_std[k])) - away * pull);
    }
  } else {
    EACH_OUTPUT(k) {
      real away = target[k] - output[k], pull = away * h->precision[k];
      to_output[k] = slope * pull;
      to_log_std[k] += slope * (away * pull - 1);
    }
  }
}

/* Adds Σ ∂ℓ/∂s to `to_log_std [size]`, writes ∂ℓ/∂o to `to_output` with zeros behind each row, and returns Σ ℓ. */
static double add_gradient(const head *h, const criterion *c, int64_t rows, const real *output, int64_t row,
                           real *to_output, real *to_log_std) {
  double sum = 0;
  memset(to_output, 0, rows * row * sizeof(real));
  for (int64_t r = 0; r < rows; r++) {
    jet loss = row_loss(h, c, r, output + r * row);
    sum += loss.value;
    row_gradient(h, c, r, loss.slope, output + r * row, to_output + r * row, to_log_std);
  }
  return sum;
}

/* Writes weight · (diag(p) − p pᵀ) tangent, the Hessian of −log p for any action. */
static void softmax_product(const head *h, real weight, const real *tangent, real *to_output) {
  real mean = 0;
  EACH_OUTPUT(k) mean += h->first[k] * tangent[k];
  EACH_OUTPUT(k) to_output[k] = weight * h->first[k] * (tangent[k] - mean);
}

/* Hessian product of the KL divergence of a row of normal distributions. */
static void normal_kl_product(const head *h, const criterion *c, int64_t r, const real *output, const real *tangent,
                              const real *log_std_tangent, real *to_output, real *to_log_std) {
  const real *old = c->old + r * h->size;
  real weight = c->weight[r];
  EACH_OUTPUT(k) {
    real away = output[k] - old[k], pull = away * h->precision[k];
    real both = 2 * (EXP(2 * (c->old_log_std[k] - h->log_std[k])) + away * pull);
    to_output[k] = weight * (tangent[k] * h->precision[k] - 2 * pull * log_std_tangent[k]);
    to_log_std[k] += weight * (both * log_std_tangent[k] - 2 * pull * tangent[k]);
  }
}

/* Hessian product of a loss of the log-probability of a row. */
static void log_prob_product(const head *h, const criterion *c, int64_t r, jet loss, const real *output,
                             const real *tangent, const real *log_std_tangent, real *to_output, real *to_log_std) {
  real along = 0; /* ∇l · v */
  if (h->distribution == CATEGORICAL) {
    int64_t action = ((const int64_t *)c->target)[r];
    EACH_OUTPUT(k) along -= h->first[k] * tangent[k];
    along = loss.curvature * (along + tangent[action]);
    softmax_product(h, -loss.slope, tangent, to_output);
    EACH_OUTPUT(k) to_output[k] -= along * h->first[k];
    to_output[action] += along;
    return;
  }
  const real *target = (const real *)c->target + r * h->size;
  EACH_OUTPUT(k) {
    real away = target[k] - output[k], pull = away * h->precision[k];
    along += pull * tangent[k] + (away * pull - 1) * log_std_tangent[k];
  }
  along *= loss.curvature;
  EACH_OUTPUT(k) {
    real away = target[k] - output[k], pull = away * h->precision[k];
    to_output[k] = along * pull - loss.slope * (h->precision[k] * tangent[k] + 2 * pull * log_std_tangent[k]);
    to_log_std[k] += along * (away * pull - 1) - 2 * loss.slope * pull * (tangent[k] + away * log_std_tangent[k]);
  }
}

static void add_hessian(const head *h, const criterion *c, int64_t rows, const real *output, int64_t row,
                        const real *tangent, const real *log_std_tangent, real *to_output, real *to_log_std) {
  memset(to_output, 0, rows * row * sizeof(real));
  for (int64_t r = 0; r < rows; r++, output += row, tangent += row, to_output += row) {
    if (c->kind == SQUARED) {
      EACH_OUTPUT(k) to_output[k] = 2 * c->weight[r] * tangent[k];
      continue;
    }
    jet loss = row_loss(h, c, r, output);
    if (c->kind != KL) {
      log_prob_product(h, c, r, loss, output, tangent, log_std_tangent, to_output, to_log_std);
    } else if (h->distribution == CATEGORICAL) {
      softmax_product(h, c->weight[r], tangent, to_output);
    } else {
      normal_kl_product(h, c, r, output, tangent, log_std_tangent, to_output, to_log_std);
    }
  }
}

static void add_fisher(const head *h, const criterion *c, int64_t rows, const real *output, int64_t row,
                       const real *tangent, const real *log_std_tangent, real *to_output, real *to_log_std) {
  memset(to_output, 0, rows * row * sizeof(real));
  for (int64_t r = 0; r < rows; r++, output += row, tangent += row, to_output += row) {
    real weight = c->weight[r];
    if (h->distribution == CATEGORICAL) {
      softmax(h, output, h->first);
      softmax_product(h, weight, tangent, to_output);
    } else if (h->distribution == GAUSSIAN) {
      EACH_OUTPUT(k) {
        to_output[k] = weight * h->precision[k] * tangent[k];
        to_log_std[k] += 2 * weight * log_std_tangent[k];
      }
    } else {
      EACH_OUTPUT(k) to_output[k] = 2 * weight * tangent[k]; /* the Hessian of a squared error */
    }
  }
}

#endif
