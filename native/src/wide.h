// Many queries: the lanes of a register are queries, each number of a key is broadcast.

#ifndef MEMJAX_NATIVE_WIDE_H_
#define MEMJAX_NATIVE_WIDE_H_

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

inline constexpr int kPanelBytes = 256 * 1024;  // of queries, which the second cache holds beside keys

// Products of kRows keys and V registers of queries: acc[r][v] over all d. The rows of the next tile lie behind these
// and are fetched meanwhile: a row is too short for the processor to see that six streams go on.
template <int V, bool squared>
inline void Tile(const float* panel, const float* rows, ptrdiff_t stride, int d, Lanes (&acc)[kRows][V]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = All(0.0f);
  for (int j = 0; j < d; ++j) {
    Lanes query[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) query[v] = Load(panel + v * kLanes);
    panel += V * kLanes;
    __builtin_prefetch(rows + kRows * (stride + j));
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Lanes key = All(rows[r * stride + j]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        if constexpr (squared) {
          Lanes difference = Sub(query[v], key);
          acc[r][v] = NegMulAdd(difference, difference, acc[r][v]);
        } else {
          acc[r][v] = MulAdd(query[v], key, acc[r][v]);
        }
      }
    }
  }
}

// A register's lanes being queries. Serves one thread, and one range of queries.
class Wide {
 public:
  explicit Wide(const Problem& problem) : p_(problem) {}

  // Looks for the queries of `found`, which begin with a panel, among the keys [begin, end).
  void Run(Found& found, int begin, int end) {
    int together = std::max(1, kPanelBytes / (4 * kPanel * p_.d)) * kPanel;
    Block block(p_, false);
    auto padded = Uninitialized<float>(static_cast<size_t>(kRows) * p_.d);
    for (int from = 0; from < found.count(); from += together) {
      int to = std::min(found.count(), from + together);
      Pack(found, from, to);
      for (int first = begin; first < end; first += block.size()) {
        block.Load(first, end);
        for (int i = from; i < to; i += kPanel) {
          const float* panel = packed_.get() + static_cast<size_t>(i - from) * p_.d;
          p_.metric == Metric::kSquared ? OnePanel<true>(panel, block, first, padded.get(), found, i)
                                        : OnePanel<false>(panel, block, first, padded.get(), found, i);
        }
      }
    }
  }

 private:
  static int Registers(const Found& found, int i) {
    return std::min(kPanelRegisters, (found.count() - i + kLanes - 1) / kLanes);
  }

  // The queries [from, to) of `found`, unless they are packed already.
  void Pack(const Found& found, int from, int to) {
    if (from == from_) return;
    if (!packed_) packed_ = Uninitialized<float>(static_cast<size_t>(RoundUp(to - from, kPanel)) * p_.d);
    for (int i = from; i < to; i += kPanel) {
      PackPanel(found.first() + i, Registers(found, i), packed_.get() + static_cast<size_t>(i - from) * p_.d);
    }
    from_ = from;
  }

  void PackPanel(int first, int registers, float* panel) const {
    int width = registers * kLanes, there = std::min(width, p_.q - first);
    for (int lane = 0; lane < width; ++lane) {
      const float* query = p_.queries + static_cast<ptrdiff_t>(first + lane) * p_.d;
      for (int j = 0; j < p_.d; ++j) panel[static_cast<size_t>(j) * width + lane] = lane < there ? query[j] : 0.0f;
    }
  }

  template <bool squared, int V = kPanelRegisters>
  void OnePanel(const float* panel, const Block& block, int first, float* padded, Found& found, int i) const {
    if constexpr (V > 1) {
      if (Registers(found, i) < V) return OnePanel<squared, V - 1>(panel, block, first, padded, found, i);
    }
    const float* thresholds = found.thresholds() + i;
    for (int r0 = 0; r0 < block.count(); r0 += kRows) {
      const float* rows = block.row(r0);
      if (r0 + kRows > block.count()) {
        size_t there = static_cast<size_t>(block.count() - r0) * p_.d;
        std::memcpy(padded, rows, there * sizeof(float));
        std::fill(padded + there, padded + static_cast<size_t>(kRows) * p_.d, 0.0f);
        rows = padded;
      }
      Lanes acc[kRows][V];
      Tile<V, squared>(panel, rows, p_.d, p_.d, acc);
      uint32_t any = 0;
      Lanes least[V];
      for (int v = 0; v < V; ++v) least[v] = memjax::Load(thresholds + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        Lanes times = All(block.times()[r0 + r]), plus = All(block.plus()[r0 + r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          acc[r][v] = MulAdd(acc[r][v], times, plus);
          any |= Above(acc[r][v], least[v]);
        }
      }
      if (any) Take<V>(acc, first + r0, thresholds, found, i);
    }
  }

  template <int V>
  static __attribute__((noinline)) void Take(const Lanes (&acc)[kRows][V], int slot, const float* thresholds,
                                             Found& found, int i) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < V; ++v) {
        uint32_t bits = Above(acc[r][v], memjax::Load(thresholds + v * kLanes));
        if (bits) found.Offer(i + v * kLanes, acc[r][v], bits, slot + r);
      }
    }
  }

  const Problem& p_;
  int from_ = -1;
  Numbers<float> packed_;
};

}  // namespace memjax

#endif  // MEMJAX_NATIVE_WIDE_H_
