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
    // One query: keys are measured while they are multiplied. Several: before, since there is no register to spare.
    Block block(p_, p_.q == 1 || !measured, p_.q > 1 ? kBlockBytes : wide() ? kWideBytes : kBytes);
    int room = RoundUp(block.size(), kLanes);
    auto products = Uninitialized<float>(static_cast<size_t>(room) * p_.q);
    Numbers<float> squares;
    if (measured && p_.q == 1) squares = Uninitialized<float>(room);
    for (int first = begin; first < end; first += block.size()) {
      block.Load(first, end);
      Results to{products.get(), squares.get(), block.count(), room};
      ptrdiff_t from = static_cast<ptrdiff_t>(first) * p_.d;
      if (block.copied() || p_.type == KeyType::kFloat32) {
        Products(block.row(0), nullptr, to);
      } else if (p_.type == KeyType::kBfloat16) {
        Products(static_cast<const uint16_t*>(p_.keys) + from, nullptr, to);
      } else {
        Products(static_cast<const int8_t*>(p_.keys) + from, p_.scale + first, to);
      }
      if (squares) block.Measured(squares.get());
      for (int i = 0; i < p_.q; ++i) Choose(products.get() + i * room, block, first, found, i);
    }
  }

 private:
  static constexpr int kWide = 384;  // numbers of a row from which two streams are read faster than four
  static constexpr int kBytes = 1024 * 1024, kWideBytes = 4 * kBytes;  // of a block, so that streams lie far apart
  static constexpr int kKeys = 4;  // whose sums over lanes are taken together
  // Of one query, with four sums each: as many as registers hold, half as many where keys are measured.
  static constexpr int kStreams = kLanes == 8 ? 2 : 4, kWideStreams = 2;
  static constexpr int kTogether = kLanes == 16 ? 4 : 2;  // queries, with four sums each: as many as registers hold

  bool wide() const { return p_.d >= kWide; }

  // Where the products [q, room] with `count` keys go, and the squares of these; null: nobody asks for squares.
  struct Results {
    float *products, *squares;
    int count, room;
  };

  // Rows of d numbers, each times its scale (int8 alone).
  template <typename T>
  void Products(const T* rows, const float* scale, const Results& to) const {
    if (to.squares) return Some<1, false, true>(0, rows, scale, to);
    p_.metric == Metric::kSquared ? Products<true>(rows, scale, to) : Products<false>(rows, scale, to);
  }

  template <bool squared, typename T>
  void Products(const T* rows, const float* scale, const Results& to) const {
    int i = 0;
    if constexpr (kTogether == 4) {
      for (; i + 4 <= p_.q; i += 4) Some<4, squared, false>(i, rows, scale, to);
    }
    for (; i + 2 <= p_.q; i += 2) Some<2, squared, false>(i, rows, scale, to);
    if (i < p_.q) Some<1, squared, false>(i, rows, scale, to);
  }

  // Short rows are multiplied without a loop.
  template <int Q, bool squared, bool measured, typename T>
  void Some(int first, const T* rows, const float* scale, const Results& to) const {
    switch (width_ / kLanes) {
      case 1: return Some<Q, squared, measured, 1>(first, rows, scale, to);
      case 2: return Some<Q, squared, measured, 2>(first, rows, scale, to);
      case 4: return Some<Q, squared, measured, 4>(first, rows, scale, to);
      default: return Some<Q, squared, measured, 0>(first, rows, scale, to);
    }
  }

  // Several queries: row after row. One query: it is multiplied so fast that the time is memory's, which answers a few
  // streams faster than one, if they lie far apart: those of the halves or quarters of a block, a register of each in
  // turn.
  template <int Q, bool squared, bool measured, int registers, typename T>
  void Some(int first, const T* rows, const float* scale, const Results& to) const {
    if constexpr (Q == 1 && !measured && registers == 0) {
      if (wide()) return Streams<Q, squared, measured, registers, kWideStreams>(first, rows, scale, to);
    }
    constexpr int streams = Q > 1 ? 1 : measured ? kStreams / 2 : kStreams;
    Streams<Q, squared, measured, registers, streams>(first, rows, scale, to);
  }

  template <int Q, bool squared, bool measured, int registers, int streams, typename T>
  void Streams(int first, const T* rows, const float* scale, const Results& to) const {
    constexpr int turns = kKeys / streams;
    constexpr int kAll = Q + measured;  // the squares are the products of one query more: of the key itself
    const float* query = queries_.get() + static_cast<size_t>(first) * width_;
    float* products[kAll];
    for (int q = 0; q < Q; ++q) products[q] = to.products + (first + q) * to.room;
    if constexpr (measured) products[Q] = to.squares;
    const int apart = to.count / kKeys * turns;  // rows from one stream to the next
    int n = 0;
    for (Lanes sums[kAll][kKeys]; n < apart; n += turns) {
      // Why not unrolled: the sums of a turn take up to 16 registers.
#pragma GCC unroll 1
      for (int i = 0; i < turns; ++i) {
        Rows<Q, squared, measured, registers, streams>(query, rows, scale, n + i, apart, i * streams, sums);
      }
      for (int q = 0; q < kAll; ++q) {
        float each[kKeys];
        Sums(sums[q], each);
        for (int i = 0; i < kKeys; ++i) products[q][i % streams * apart + n + i / streams] = each[i];
      }
    }
    n = apart * streams;
    for (Lanes sums[kAll][1]; n < to.count; ++n) {
      Rows<Q, squared, measured, registers, 1>(query, rows, scale, n, 0, 0, sums);
      for (int q = 0; q < kAll; ++q) products[q][n] = Sum(sums[q][0]);
    }
    for (int q = 0; q < kAll; ++q) std::fill(products[q] + n, products[q] + to.room, 0.0f);
  }

  // Writes sums[q][place + r] of the rows n + r * apart, in the order of SumOfProducts: number j goes to sum
  // j / kLanes % 4. Rows are read where they lie, so the last register of each may be loaded in part.
  template <int Q, bool squared, bool measured, int registers, int R, typename T, int K>
  inline __attribute__((always_inline)) void Rows(const float* query, const T* rows, const float* scale, int n,
                                                  int apart, int place, Lanes (&sums)[Q + measured][K]) const {
    constexpr int kSums = registers && registers < 4 ? registers : 4, kAll = Q + measured;
    const int d = p_.d, width = registers ? registers * kLanes : width_;  // a constant, of short rows
    const T* row[R];
    Lanes scales[R], acc[R][kAll][kSums];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      row[r] = rows + static_cast<ptrdiff_t>(n + r * apart) * d;
      scales[r] = All(sizeof(T) == 1 ? scale[n + r * apart] : 1.0f);
#pragma GCC unroll 4
      for (int q = 0; q < kAll; ++q)
#pragma GCC unroll 4
        for (int a = 0; a < kSums; ++a) acc[r][q][a] = All(0.0f);
    }
    int j = 0;
    if constexpr (registers == 0) {
      // Two rows of one query: keys are waited for, so two registers of each are loaded before they are multiplied.
      constexpr int kFirst = 2;
      for (; j + 4 * kLanes <= d; j += 4 * kLanes) {
#pragma GCC unroll 4
        for (int a = 0; a < 4; a += kFirst) {
          Lanes keys[kFirst][R];
#pragma GCC unroll 4
          for (int b = 0; b < kFirst; ++b)
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
              keys[b][r] = memjax::Load(row[r] + j + (a + b) * kLanes);
              if (Q == 1 && R <= 2) Pin(keys[b][r]);
            }
#pragma GCC unroll 4
          for (int b = 0; b < kFirst; ++b)
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
              Lanes key = Scaled<T>(keys[b][r], scales[r]);
              Step<Q, squared, measured>(query, width, key, j + (a + b) * kLanes, a + b, acc[r]);
            }
        }
      }
    }
    constexpr int most = registers ? registers : 4;
#pragma GCC unroll 4
    for (int a = 0; a < most; ++a, j += kLanes) {
      const bool whole = registers ? a < registers - 1 : j + kLanes <= d;  // known when compiled, of short rows
      if (registers == 0 && j >= d) break;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        Lanes key = whole ? memjax::Load(row[r] + j) : LoadFirst(row[r] + j, d - j);
        Step<Q, squared, measured>(query, width, Scaled<T>(key, scales[r]), j, a, acc[r]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int q = 0; q < kAll; ++q) {
        if constexpr (kSums == 4) {
          sums[q][place + r] = Add(Add(acc[r][q][0], acc[r][q][1]), Add(acc[r][q][2], acc[r][q][3]));
        } else {
          sums[q][place + r] = kSums == 2 ? Add(acc[r][q][0], acc[r][q][kSums - 1]) : acc[r][q][0];
        }
      }
  }

  template <typename T>
  static inline Lanes Scaled(Lanes key, Lanes scale) {
    return sizeof(T) == 1 ? Mul(key, scale) : key;
  }

  template <int Q, bool squared, bool measured, int kSums>
  static inline __attribute__((always_inline)) void Step(const float* query, int width, Lanes key, int j, int a,
                                                         Lanes (&acc)[Q + measured][kSums]) {
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) AddProduct<squared>(memjax::Load(query + q * width + j), key, acc[q][a]);
    if constexpr (measured) acc[Q][a] = MulAdd(key, key, acc[Q][a]);
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
