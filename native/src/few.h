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
    Block block(p_, !measured);
    int room = RoundUp(block.size(), kLanes);
    auto products = Uninitialized<float>(static_cast<size_t>(room) * p_.q);
    for (int first = begin; first < end; first += block.size()) {
      block.Load(first, end);
      ptrdiff_t from = static_cast<ptrdiff_t>(first) * p_.d;
      const float* scale = p_.scale ? p_.scale + first : nullptr;
      if (measured || p_.type == KeyType::kFloat32) {
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
  static constexpr int kKeys = 4;  // whose sums over lanes are taken together
  static constexpr int kTogether = kLanes == 16 ? 4 : 2;  // queries, with four sums each: as many as registers hold

  // Writes the products [q, room] with `count` rows of d numbers, each times its scale (int8 alone).
  template <typename T>
  void Products(const T* rows, const float* scale, int count, int room, float* products) const {
    p_.metric == Metric::kSquared ? Products<true>(rows, scale, count, room, products)
                                  : Products<false>(rows, scale, count, room, products);
  }

  template <bool squared, typename T>
  void Products(const T* rows, const float* scale, int count, int room, float* products) const {
    int i = 0;
    if constexpr (kTogether == 4) {
      for (; i + 4 <= p_.q; i += 4) Some<4, squared>(i, rows, scale, count, room, products);
    }
    for (; i + 2 <= p_.q; i += 2) Some<2, squared>(i, rows, scale, count, room, products);
    if (i < p_.q) Some<1, squared>(i, rows, scale, count, room, products);
  }

  // Short rows are multiplied without a loop.
  template <int Q, bool squared, typename T>
  void Some(int first, const T* rows, const float* scale, int count, int room, float* products) const {
    switch (width_ / kLanes) {
      case 1: return Some<Q, squared, 1>(first, rows, scale, count, room, products);
      case 2: return Some<Q, squared, 2>(first, rows, scale, count, room, products);
      case 4: return Some<Q, squared, 4>(first, rows, scale, count, room, products);
      default: return Some<Q, squared, 0>(first, rows, scale, count, room, products);
    }
  }

  // Row after row, and not several side by side: memory answers one long stream faster than some short ones.
  template <int Q, bool squared, int registers, typename T>
  void Some(int first, const T* rows, const float* scale, int count, int room, float* products) const {
    const float* query = queries_.get() + static_cast<size_t>(first) * width_;
    products += first * room;
    int n = 0;
    for (Lanes sums[Q][kKeys]; n + kKeys <= count; n += kKeys) {
      // Why not unrolled: the sums of a row take up to 16 registers.
#pragma GCC unroll 1
      for (int i = 0; i < kKeys; ++i) Row<Q, squared, registers>(query, rows, scale, n + i, i, sums);
      for (int q = 0; q < Q; ++q) Sums(sums[q], products + q * room + n);
    }
    for (Lanes sums[Q][1]; n < count; ++n) {
      Row<Q, squared, registers>(query, rows, scale, n, 0, sums);
      for (int q = 0; q < Q; ++q) products[q * room + n] = Sum(sums[q][0]);
    }
    for (int q = 0; q < Q; ++q) std::fill(products + q * room + n, products + (q + 1) * room, 0.0f);
  }

  // Writes sums[q][place] of row n, in the order of SumOfProducts: number j goes to sum j / kLanes % 4. The row is read
  // where it lies, so its last register may be loaded in part.
  template <int Q, bool squared, int registers, typename T, int K>
  inline __attribute__((always_inline)) void Row(const float* query, const T* rows, const float* scale, int n,
                                                 int place, Lanes (&sums)[Q][K]) const {
    constexpr int kSums = registers && registers < 4 ? registers : 4;
    const int d = p_.d, width = registers ? registers * kLanes : width_;  // a constant, of short rows
    const T* row = rows + static_cast<ptrdiff_t>(n) * d;
    Lanes scales = All(sizeof(T) == 1 ? scale[n] : 1.0f), acc[Q][kSums];
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 4
      for (int a = 0; a < kSums; ++a) acc[q][a] = All(0.0f);
    if constexpr (registers > 0) {
#pragma GCC unroll 4
      for (int a = 0; a < registers - 1; ++a) {
        Step<Q, squared, kSums>(query, width, row, memjax::Load(row + a * kLanes), scales, a * kLanes, a, acc);
      }
      constexpr int last = (registers - 1) * kLanes;
      Step<Q, squared, kSums>(query, width, row, LoadFirst(row + last, d - last), scales, last, registers - 1, acc);
    } else {
      int j = 0;
      for (; j + 4 * kLanes <= d; j += 4 * kLanes) {
#pragma GCC unroll 4
        for (int a = 0; a < 4; ++a) {
          int at = j + a * kLanes;
          Step<Q, squared, kSums>(query, width, row, memjax::Load(row + at), scales, at, a, acc);
        }
      }
#pragma GCC unroll 4
      for (int a = 0; a < 4; ++a, j += kLanes) {
        if (j + kLanes <= d) {
          Step<Q, squared, kSums>(query, width, row, memjax::Load(row + j), scales, j, a, acc);
        } else if (j < d) {
          Step<Q, squared, kSums>(query, width, row, LoadFirst(row + j, d - j), scales, j, a, acc);
        }
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
      if constexpr (kSums == 4) {
        sums[q][place] = Add(Add(acc[q][0], acc[q][1]), Add(acc[q][2], acc[q][3]));
      } else {
        sums[q][place] = kSums == 2 ? Add(acc[q][0], acc[q][kSums - 1]) : acc[q][0];
      }
    }
  }

  template <int Q, bool squared, int kSums, typename T>
  static inline __attribute__((always_inline)) void Step(const float* query, int width, const T* row, Lanes key,
                                                         Lanes scales, int j, int a, Lanes (&acc)[Q][kSums]) {
    if constexpr (sizeof(T) == 1) key = Mul(key, scales);
    __builtin_prefetch(reinterpret_cast<const char*>(row + j) + kFetchAhead);
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) AddProduct<squared>(memjax::Load(query + q * width + j), key, acc[q][a]);
  }

  static void Choose(const float* products, const Block& block, int first, Found& found, int i) {
    const float* threshold = found.thresholds() + i;
    for (int n = 0; n < block.count(); n += kLanes) {
      Lanes ranks = MulAdd(memjax::Load(products + n), memjax::Load(block.times() + n), memjax::Load(block.plus() + n));
      uint32_t bits = Above(ranks, All(*threshold)) & Above(All(kInfinity), ranks);
      if (!bits) continue;
      float stored[kLanes];
      Store(stored, ranks);
      for (; bits; bits &= bits - 1) {
        int lane = __builtin_ctz(bits);
        if (stored[lane] > *threshold) found.Offer(i, stored[lane], first + n + lane);
      }
    }
  }

  const Problem& p_;
  int width_;
  Numbers<float> queries_;
};

}  // namespace memjax

#endif  // MEMJAX_NATIVE_FEW_H_
