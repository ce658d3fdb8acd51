// What is asked: queries, a table of keys, and what may be said of keys.

#ifndef MEMJAX_NATIVE_PROBLEM_H_
#define MEMJAX_NATIVE_PROBLEM_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "simd.h"

namespace memjax {

enum class Metric : int32_t {
  kDot = 0,      // q.x
  kCosine = 1,   // q.x / |x|
  kSquared = 2,  // -|q - x|^2, difference by difference: nothing cancels, and no norms are needed
};

enum class KeyType { kFloat32, kBfloat16, kInt8 };

struct Problem {
  const float* queries;  // [q, d], of norm one or zero (kCosine)
  const void* keys;      // [n, d]
  KeyType type;
  const float* scale;      // [n] of int8 keys, else null
  const float* norms;      // [n], one over the norm (kCosine); null: measured
  const bool* valid;       // [n]; null: every slot
  const int32_t* group;    // [n]; null: none
  const int32_t* exclude;  // [q] beside group; negative: none
  Metric metric;
  int q, n, d, k;  // k: how many to find, at most n

  // Whether the form for few queries is taken (few.h), whose products are in the order of the scores.
  bool few() const { return q <= 8; }
};

// What is found.
struct Answer {
  float* scores;   // [q, k]
  int32_t* slots;  // [q, k]
  bool* mask;      // [q, k], whether there is one
  int32_t* count;  // [q], how many there are
};

inline constexpr int kFetchAhead = 8192;  // bytes: keys are read one behind the other, and memory answers late
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline int RoundUp(int x, int to) { return (x + to - 1) / to * to; }

inline constexpr std::align_val_t kLine{64};

struct Free {
  void operator()(void* p) const { operator delete[](p, kLine); }
};
template <typename T>
using Numbers = std::unique_ptr<T[], Free>;

// Numbers that begin with a line of the cache: a register that is loaded across two lines takes twice as long.
template <typename T>
Numbers<T> Uninitialized(size_t count) {
  return Numbers<T>(static_cast<T*>(operator new[](count * sizeof(T), kLine)));
}

// Writes x[d] in float32 times `scale`, filled up with zeros to `width` numbers, fewer than kLanes of them.
template <typename T>
inline void Convert(const T* x, int d, int width, float scale, float* row) {
  Lanes scales = All(scale);
  int j = 0;
  for (; j + kLanes <= d; j += kLanes) {
    Store(row + j, Mul(Load(x + j), scales));
    __builtin_prefetch(reinterpret_cast<const char*>(x + j) + kFetchAhead);
  }
  if (j == d) return;
  float tail[kLanes];
  Store(tail, Mul(LoadFirst(x + j, d - j), scales));
  std::memcpy(row + j, tail, (width - j) * sizeof(float));
}

// Writes key `slot` in float32, filled up with zeros to `width` numbers: d, or d rounded up to a multiple of kLanes.
inline void ReadKey(const Problem& p, int slot, int width, float* row) {
  ptrdiff_t from = static_cast<ptrdiff_t>(slot) * p.d;
  if (p.type == KeyType::kFloat32) {
    Convert(static_cast<const float*>(p.keys) + from, p.d, width, 1.0f, row);
  } else if (p.type == KeyType::kBfloat16) {
    Convert(static_cast<const uint16_t*>(p.keys) + from, p.d, width, 1.0f, row);
  } else {
    Convert(static_cast<const int8_t*>(p.keys) + from, p.d, width, p.scale[slot], row);
  }
}

// Adds x y, or -(x - y)^2, to `sum`.
template <bool squared>
inline void AddProduct(Lanes x, Lanes y, Lanes& sum) {
  if constexpr (squared) {
    Lanes difference = Sub(x, y);
    sum = NegMulAdd(difference, difference, sum);
  } else {
    sum = MulAdd(x, y, sum);
  }
}

// The sum of x[j] y[j], or of -(x[j] - y[j])^2, over `width` numbers, a multiple of kLanes, in one fixed order.
template <bool squared>
inline float SumOfProducts(const float* x, const float* y, int width) {
  Lanes sums[4] = {All(0.0f), All(0.0f), All(0.0f), All(0.0f)};
  for (int j = 0, i = 0; j < width; j += kLanes, i = (i + 1) % 4) {
    AddProduct<squared>(Load(x + j), Load(y + j), sums[i]);
  }
  return Sum(Add(Add(sums[0], sums[1]), Add(sums[2], sums[3])));
}

// One over the norm of x[d], 0 where that is 0: not a number where x is not finite.
inline float InverseNorm(const float* x, int d) {
  float total = 0.0f;
  int j = 0;
  Lanes totals = All(0.0f);
  for (; j + kLanes <= d; j += kLanes) totals = MulAdd(Load(x + j), Load(x + j), totals);
  for (total = Sum(totals); j < d; ++j) total += x[j] * x[j];
  if (total > 1e-30f && total < 1e30f) return 1.0f / std::sqrt(total);
  // Why: squares vanished or overflowed, so each number is first divided by the largest.
  float largest = 0.0f;
  for (j = 0; j < d; ++j) largest = std::fabs(x[j]) > largest ? std::fabs(x[j]) : largest;
  if (largest == 0.0f) return total == 0.0f ? 0.0f : total;
  for (total = 0.0f, j = 0; j < d; ++j) total += x[j] / largest * (x[j] / largest);
  return 1.0f / (std::sqrt(total) * largest);
}

}  // namespace memjax

#endif  // MEMJAX_NATIVE_PROBLEM_H_
