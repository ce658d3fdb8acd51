// A few queries: the lanes of a register are numbers of one key.

#ifndef MEMJAX_NATIVE_FEW_H_
#define MEMJAX_NATIVE_FEW_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "block.h"
#include "found.h"
#include "problem.h"
#include "simd.h"

namespace memjax {

inline constexpr int kFewQueries = 8;  // at most so many take this form

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
    bool measured = p_.metric == Metric::kCosine && !p_.norms;
    bool in_place = p_.type != KeyType::kFloat32 && width_ == p_.d && !measured;
    Block block(p_, true, in_place);
    int room = RoundUp(block.size(), kLanes);
    auto products = Uninitialized<float>(room * kFewQueries);
    for (int first = begin; first < end; first += block.size()) {
      block.Load(first, end);
      ptrdiff_t from = static_cast<ptrdiff_t>(first) * p_.d;
      const float* scale = p_.scale ? p_.scale + first : nullptr;
      if (!in_place) {
        Products(block.row(0), nullptr, block.count(), room, products.get());
      } else if (p_.type == KeyType::kBfloat16) {
        Products(static_cast<const uint16_t*>(p_.keys) + from, nullptr, block.count(), room, products.get());
      } else {
        Products(static_cast<const int8_t*>(p_.keys) + from, scale, block.count(), room, products.get());
      }
      for (int i = 0; i < p_.q; ++i) Choose(products.get() + i * room, block, first, found, i);
    }
  }

 private:
  static constexpr int kKeys = 4;  // at a time

  static const float* From(const float* scale, int n) { return scale ? scale + n : nullptr; }

  // Writes the products [q, room] with `count` rows of width_ numbers, each times its scale (int8 alone).
  template <typename T>
  void Products(const T* rows, const float* scale, int count, int room, float* products) const {
    p_.metric == Metric::kSquared ? Products<true>(rows, scale, count, room, products)
                                  : Products<false>(rows, scale, count, room, products);
  }

  template <bool squared, typename T>
  void Products(const T* rows, const float* scale, int count, int room, float* products) const {
    int i = 0;
    for (; i + 4 <= p_.q; i += 4) Some<4, squared>(i, rows, scale, count, room, products);
    for (; i + 2 <= p_.q; i += 2) Some<2, squared>(i, rows, scale, count, room, products);
    if (i < p_.q) Some<1, squared>(i, rows, scale, count, room, products);
  }

  template <int Q, bool squared, typename T>
  void Some(int first, const T* rows, const float* scale, int count, int room, float* products) const {
    const float* query = queries_.get() + static_cast<size_t>(first) * width_;
    products += first * room;
    int n = 0;
    for (; n + kKeys <= count; n += kKeys) {
      Dots<Q, kKeys, squared>(query, rows + static_cast<ptrdiff_t>(n) * width_, From(scale, n), room, products + n);
    }
    for (; n < count; ++n) {
      Dots<Q, 1, squared>(query, rows + static_cast<ptrdiff_t>(n) * width_, From(scale, n), room, products + n);
    }
    for (int q = 0; q < Q; ++q) std::fill(products + q * room + n, products + (q + 1) * room, 0.0f);
  }

  template <int Q, int K, bool squared, typename T>
  void Dots(const float* query, const T* row, const float* scale, int room, float* products) const {
    Lanes acc[Q][kKeys];
    for (int q = 0; q < Q; ++q)
      for (int k = 0; k < kKeys; ++k) acc[q][k] = All(0.0f);
    for (int j = 0; j < width_; j += kLanes) {
      Lanes keys[K];
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) {
        keys[k] = memjax::Load(row + k * width_ + j);
        if constexpr (sizeof(T) == 1) keys[k] = Mul(keys[k], All(scale[k]));
        __builtin_prefetch(reinterpret_cast<const char*>(row + k * width_ + j) + kFetchAhead);
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
