// The exact nearest neighbours of queries in a table: a matrix product whose scores are looked at while they are in
// registers, and never stored.
//
// A product becomes a rank by one multiplication and one addition for each key (norms, masks), and is compared with the
// least rank that its query still keeps. Few exceed it: of N keys in random order about k (1 + ln(N / k)). Those are
// written down (best.h). So the time is that of the product, or, for few queries, of reading the keys once.
//
// There are two forms, for many queries (wide.h) and for few (few.h). In both a pair's product is summed in one fixed
// order, whatever it is searched among and however the work is divided. At the end the candidates are scored from the
// keys (exact.h).

#ifndef MEMJAX_NATIVE_SEARCH_H_
#define MEMJAX_NATIVE_SEARCH_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "exact.h"
#include "few.h"
#include "found.h"
#include "problem.h"
#include "wide.h"

namespace memjax {

// (count, f): calls f(0) to f(count - 1), in any order on any thread, and returns when all are done.
using Parallel = std::function<void(int, const std::function<void(int)>&)>;

inline constexpr int64_t kWorthAThread = 1 << 19;  // multiplications
// Parts for each thread, where there is enough to do: so a thread that something else holds up costs the others less.
inline constexpr int kParts = 4;

// Queries [q, d] as they are compared: of norm one for kCosine, else the same.
inline std::unique_ptr<float[]> Prepared(const Problem& p) {
  auto made = Uninitialized<float>(static_cast<size_t>(p.q) * p.d);
  for (int i = 0; i < p.q; ++i) {
    const float* from = p.queries + static_cast<ptrdiff_t>(i) * p.d;
    float* to = made.get() + static_cast<ptrdiff_t>(i) * p.d;
    float inverse = p.metric == Metric::kCosine ? InverseNorm(from, p.d) : 1.0f;
    for (int j = 0; j < p.d; ++j) to[j] = from[j] * inverse;
  }
  return made;
}

inline void Look(const Problem& p, Found& found, int begin, int end) {
  p.q <= kFewQueries ? Few(p).Run(found, begin, end) : Wide(p).Run(found, begin, end);
}

// Writes scores [q, k] and slots [q, k], nearest first, -infinity and n where there is none. `threads`: how many calls
// `parallel` makes at a time.
inline void Search(Problem p, int threads, const Parallel& parallel, float* scores, int32_t* slots) {
  auto queries = Prepared(p);
  p.queries = queries.get();
  int64_t work = static_cast<int64_t>(p.q) * p.n * p.d;
  int most = static_cast<int>(std::clamp<int64_t>(work / kWorthAThread, 1, std::max(threads, 1)));
  int panels = p.q <= kFewQueries ? 1 : (p.q + kPanel - 1) / kPanel;
  if (panels % most == 0 || panels >= kParts * most) {
    int parts = most == 1 ? 1 : std::min(panels, kParts * most);
    parallel(parts, [&](int i) {
      int first = static_cast<int>(static_cast<int64_t>(panels) * i / parts) * kPanel;
      int last = std::min(p.q, static_cast<int>(static_cast<int64_t>(panels) * (i + 1) / parts) * kPanel);
      Found found(p, first, last);
      Look(p, found, 0, p.n);
      Exact exact(p);
      for (int q = first; q < last; ++q) {
        exact.Begin();
        exact.Add(found.best(q - first));
        exact.Write(q, scores + static_cast<ptrdiff_t>(q) * p.k, slots + static_cast<ptrdiff_t>(q) * p.k);
      }
    });
    return;
  }
  // Too few queries for all threads: the keys are divided, and the candidates of all parts are merged.
  bool many = work / most > 16 * kWorthAThread && p.n / (kParts * most) > int64_t{256} * p.k;
  int parts = std::min(many ? kParts * most : most, std::max(1, p.n / kRows));
  std::vector<std::unique_ptr<Found>> found(parts);
  parallel(parts, [&](int i) {
    found[i] = std::make_unique<Found>(p, 0, p.q);
    Look(p, *found[i], static_cast<int>(static_cast<int64_t>(p.n) * i / parts),
         static_cast<int>(static_cast<int64_t>(p.n) * (i + 1) / parts));
  });
  int merges = std::clamp<int>(static_cast<int64_t>(p.q) * p.k * p.d / kWorthAThread, 1, std::min(most, p.q));
  parallel(merges, [&](int i) {
    Exact exact(p);
    int last = static_cast<int>(static_cast<int64_t>(p.q) * (i + 1) / merges);
    for (int q = static_cast<int>(static_cast<int64_t>(p.q) * i / merges); q < last; ++q) {
      exact.Begin();
      for (auto& part : found) exact.Add(part->best(q));
      exact.Write(q, scores + static_cast<ptrdiff_t>(q) * p.k, slots + static_cast<ptrdiff_t>(q) * p.k);
    }
  });
}

}  // namespace memjax

#endif  // MEMJAX_NATIVE_SEARCH_H_
