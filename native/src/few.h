// A few queries: the lanes of a register are numbers of one key.

#ifndef MEMJAX_NATIVE_FEW_H_
#define MEMJAX_NATIVE_FEW_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "block.h"
#include "found.h"
#include "problem.h"
#include "simd.h"

namespace memjax {

inline constexpr int kFewQueries = 8;     // at most so many take this form
inline constexpr int kFetchAhead = 1024;  // numbers

// A few queries, a register's lanes being numbers of one key.
class Few {
 public:
  explicit Few(const Problem& problem) : p_(problem), width_(RoundUp(problem.d, kLanes)) {
    queries_ = Uninitialized<float>(static_cast<size_t>(p_.q) * width_);
    for (int i = 0; i < p_.q; ++i) {
      float* row = queries_.get() + static_cast<size_t>(i) * width_;
      std::memcpy(row, p_.queries + static_cast<ptrdiff_t>(i) * p_.d, p_.d * sizeof(float));
      std::fill(row + p_.d, row + width_, 0.0f);
    }
  }

  void Run(Found& found, int begin, int end) const {
    Block block(p_, true);
    auto products = Uninitialized<float>(RoundUp(block.size(), kLanes) * kFewQueries);
    for (int first = begin; first < end; first += block.size()) {
      block.Load(first, end);
      bool squared = p_.metric == Metric::kSquared;
      squared ? Products<true>(block, products.get()) : Products<false>(block, products.get());
      for (int i = 0; i < p_.q; ++i) Choose(products.get() + i * RoundUp(block.size(), kLanes), block, first, found, i);
    }
  }

 private:
  static constexpr int kKeys = 4;  // at a time

  template <bool squared>
  void Products(const Block& block, float* products) const {
    int room = RoundUp(block.size(), kLanes), i = 0;
    for (; i + 4 <= p_.q; i += 4) Some<4, squared>(block, i, room, products + i * room);
    for (; i + 2 <= p_.q; i += 2) Some<2, squared>(block, i, room, products + i * room);
    if (i < p_.q) Some<1, squared>(block, i, room, products + i * room);
  }

  template <int Q, bool squared>
  void Some(const Block& block, int first, int room, float* products) const {
    const float* query = queries_.get() + static_cast<size_t>(first) * width_;
    int n = 0;
    for (; n + kKeys <= block.count(); n += kKeys) Dots<Q, kKeys, squared>(query, block.row(n), room, products + n);
    for (; n < block.count(); ++n) Dots<Q, 1, squared>(query, block.row(n), room, products + n);
    std::fill(products + n, products + room, 0.0f);
    for (int q = 1; q < Q; ++q) std::fill(products + q * room + n, products + (q + 1) * room, 0.0f);
  }

  template <int Q, int K, bool squared>
  void Dots(const float* query, const float* row, int room, float* products) const {
    Lanes acc[Q][kKeys];
    for (int q = 0; q < Q; ++q)
      for (int k = 0; k < kKeys; ++k) acc[q][k] = All(0.0f);
    for (int j = 0; j < width_; j += kLanes) {
      Lanes keys[K];
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) {
        keys[k] = memjax::Load(row + k * width_ + j);
        __builtin_prefetch(row + k * width_ + j + kFetchAhead);
      }
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) {
        Lanes x = memjax::Load(query + q * width_ + j);
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) {
          if constexpr (squared) {
            Lanes difference = Sub(x, keys[k]);
            acc[q][k] = NegMulAdd(difference, difference, acc[q][k]);
          } else {
            acc[q][k] = MulAdd(x, keys[k], acc[q][k]);
          }
        }
      }
    }
    for (int q = 0; q < Q; ++q) {
      float sums[kKeys];
      Sums(acc[q], sums);
      for (int k = 0; k < K; ++k) products[q * room + k] = sums[k];
    }
  }

  static void Choose(const float* products, const Block& block, int first, Found& found, int i) {
    const float* threshold = found.thresholds() + i;
    for (int n = 0; n < block.count(); n += kLanes) {
      Lanes ranks = MulAdd(memjax::Load(products + n), memjax::Load(block.times() + n), memjax::Load(block.plus() + n));
      uint32_t bits = Above(ranks, All(*threshold));
      if (!bits) continue;
      float stored[kLanes];
      Store(stored, ranks);
      for (; bits; bits &= bits - 1) {
        int lane = __builtin_ctz(bits);
        found.Offer(i, stored[lane], first + n + lane);
      }
    }
  }

  const Problem& p_;
  int width_;
  std::unique_ptr<float[]> queries_;
};

}  // namespace memjax

#endif  // MEMJAX_NATIVE_FEW_H_
