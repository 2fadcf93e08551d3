/* Two linear layers on the same memory, and their derivative:

       forward   o₁ = W₁ m + b₁,  o₂ = W₂ m + b₂
       backward  ∂m = W₁ᵀ ∂o₁ + W₂ᵀ ∂o₂,  W += ∂o mᵀ,  b += ∂o

   They have a few outputs, and many rows. Both layers are one product for a block of rows, which stays in the cache.
   Sums over rows are in the order of the rows; those of the biases are in double precision.

   `width` is the size of a memory in whole vectors. Rows of `memory` have at least so many numbers that may be read. */

#include <stdlib.h>

#include "matrix.h"

#define BLOCK 96 /* rows */

typedef struct {
  int64_t rows, size, memory_row, outputs[2];
  const real *memory;                      /* m [rows, size] in rows of memory_row numbers */
  const real *weight[2], *bias[2];         /* W [outputs, size] and b [outputs] */
  real *output[2];                         /* o [rows, outputs] */
  const real *cotangent[2];                /* ∂o [rows, outputs] */
  real *to_memory;                         /* ∂m [rows, width] */
  real *to_weight[2], *to_bias[2];         /* as W and b */
} linear_pair;

int64_t linear_width(int64_t size) { return PADDED(size); }

/* Copies rows of [first | second | …] to two arrays or, with `join`, from them. */
static void split(const linear_pair *p, int64_t start, int64_t rows, real *both, int64_t row, real *const *parts,
                  int join) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t side = 0, at = i * row; side < 2; at += p->outputs[side++])
      for (int64_t k = 0; k < p->outputs[side]; k++) {
        real *own = parts[side] + (start + i) * p->outputs[side] + k;
        if (join)
          both[at + k] = *own;
        else
          *own = both[at + k];
      }
}

/* The outputs of all rows. Returns 0, or −1 without memory. */
int linear_forward(const linear_pair *p) {
  const int64_t total = p->outputs[0] + p->outputs[1], row = PADDED(total), size = p->size;
  real *weight = calloc(size * row + row + BLOCK * row, sizeof(real));
  if (!weight) return -1;
  real *bias = weight + size * row, *both = bias + row;
  for (int64_t side = 0, at = 0; side < 2; at += p->outputs[side++])
    for (int64_t k = 0; k < p->outputs[side]; k++) {
      bias[at + k] = p->bias[side][k];
      for (int64_t i = 0; i < size; i++) weight[i * row + at + k] = p->weight[side][k * size + i];
    }
  for (int64_t start = 0; start < p->rows; start += BLOCK) {
    int64_t rows = p->rows - start < BLOCK ? p->rows - start : BLOCK;
    for (int64_t i = 0; i < rows; i++) memcpy(both + i * row, bias, row * sizeof(real));
    multiply(rows, total, size, p->memory + start * p->memory_row, p->memory_row, 1, weight, row, both, row, 1);
    split(p, start, rows, both, row, p->output, 0);
  }
  free(weight);
  return 0;
}

/* The derivatives by memory, weights and biases. Returns 0, or −1 without memory. */
int linear_backward(const linear_pair *p) {
  const int64_t total = p->outputs[0] + p->outputs[1], row = PADDED(total), size = p->size, width = PADDED(size);
  real *weight = calloc(2 * total * width + BLOCK * row, sizeof(real));
  double *sums = calloc(total, sizeof(double));
  if (weight && sums) {
    real *to_weight = weight + total * width, *both = to_weight + total * width;
    pad(p->outputs[0], size, p->weight[0], size, weight, width);
    pad(p->outputs[1], size, p->weight[1], size, weight + p->outputs[0] * width, width);
    for (int64_t start = 0; start < p->rows; start += BLOCK) {
      int64_t rows = p->rows - start < BLOCK ? p->rows - start : BLOCK;
      split(p, start, rows, both, row, (real *const *)p->cotangent, 1);
      for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < total; k++) sums[k] += both[i * row + k];
      multiply(rows, size, total, both, row, 1, weight, width, p->to_memory + start * width, width, 0);
      multiply(total, size, rows, both, 1, row, p->memory + start * p->memory_row, p->memory_row, to_weight, width, 1);
    }
    for (int64_t side = 0, at = 0; side < 2; at += p->outputs[side++])
      for (int64_t k = 0; k < p->outputs[side]; k++) {
        p->to_bias[side][k] = (real)sums[at + k];
        memcpy(p->to_weight[side] + k * size, to_weight + (at + k) * width, size * sizeof(real));
      }
  }
  int status = weight && sums ? 0 : -1;
  free(weight);
  free(sums);
  return status;
}
