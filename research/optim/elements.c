/* Updates of all elements of tensors, each in one pass over memory. */

#include <stdint.h>
#include <tgmath.h>

typedef REAL real;
#define BLOCK 1024

/* slow ← slow + α (fast − slow);  fast ← slow, for every pair of arrays of `size` numbers. At α = 1 slow is exactly
   fast. */
void pull(int64_t count, const int64_t *size, real *const *slow, real *const *fast, double alpha) {
  real rest = 1 - alpha;
  for (int64_t n = 0; n < count; n++) {
    real *restrict to = slow[n], *restrict from = fast[n];
    for (int64_t i = 0; i < size[n]; i++) to[i] = from[i] = from[i] - (from[i] - to[i]) * rest;
  }
}

static double norm(int64_t size, const real *x) {
  double sum = 0;
  for (int64_t first = 0; first < size; first += BLOCK) {
    int64_t count = size - first < BLOCK ? size - first : BLOCK;
    real lane[16] = {0}, rest = 0; /* sums that the compiler can keep in vectors */
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
      for (int64_t l = 0; l < 16; l++) lane[l] += x[first + i + l] * x[first + i + l];
    for (; i < count; i++) rest += x[first + i] * x[first + i];
    for (int64_t l = 0; l < 16; l++) rest += lane[l];
    sum += rest;
  }
  return sqrt(sum);
}

/* One step of Adam for each row of `size` numbers (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), as in PyTorch:

     g ← g min(1, c / (|g| + 10⁻⁶)) if c > 0,    g ← g + λ θ, or θ ← (1 − ηλ) θ if the decay is decoupled
     m ← m + (1 − β₁)(g − m),  v ← β₂ v + (1 − β₂) g²,  θ ← θ − η m / (1 − β₁ᵗ) / (√v / √(1 − β₂ᵗ) + ε)

   The gradient is not changed. */
void adam(int64_t rows, int64_t size, real *parameters, const real *gradients, real *means, real *squares, int64_t step,
          double largest, double rate, double beta1, double beta2, double epsilon, double decay, int64_t decoupled) {
  real length = rate / (1 - pow(beta1, (double)step)), unbias = 1 / sqrt(1 - pow(beta2, (double)step));
  real new1 = 1 - beta1, old2 = beta2, new2 = 1 - beta2, eps = epsilon;
  real added = decoupled ? 0 : decay, kept = decoupled ? 1 - rate * decay : 1;
  for (int64_t row = 0; row < rows; row++) {
    real *restrict parameter = parameters + row * size, *restrict mean = means + row * size;
    real *restrict square = squares + row * size;
    const real *restrict gradient = gradients + row * size;
    double scale = largest > 0 ? largest / (norm(size, gradient) + 1e-6) : 1;
    real factor = scale < 1 ? scale : 1; /* 1 where the norm is NaN */
    for (int64_t i = 0; i < size; i++) {
      real g = factor * gradient[i] + added * parameter[i];
      mean[i] += new1 * (g - mean[i]);
      square[i] = old2 * square[i] + new2 * g * g;
      parameter[i] = kept * parameter[i] - length * mean[i] / (sqrt(square[i]) * unbias + eps);
    }
  }
}
