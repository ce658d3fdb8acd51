// The exact nearest neighbours of queries in a table: a matrix product whose scores are looked at while they are in
// registers, and never stored.
//
// A product becomes a rank by one multiplication and one addition for each key (norms, masks), and is compared with the
// least rank that its query still keeps. Few exceed it: of N keys in random order about k (1 + ln(N / k)). Those are
// written down (best.h). So the time is that of the product, or, for few queries, of reading the keys once.
//
// There are two forms, for many queries (wide.h) and for few (few.h). In both a pair's product is summed in one fixed
// order, whatever it is searched among and however the work is divided. At the end the candidates are scored from the
// keys (exact.h), in the order of the second form.

#ifndef MEMJAX_NATIVE_SEARCH_H_
#define MEMJAX_NATIVE_SEARCH_H_

#include <algorithm>
#include <atomic>
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

// Multiplications that are worth another thread. Many queries are multiplied some times as fast as a few.
inline constexpr int64_t kWorthAThread = 1 << 19, kManyWorthAThread = 1 << 21;
// Parts for each thread, where queries or keys are divided: one that begins late, or is held up, leaves more to others.
inline constexpr int kParts = 4, kShareParts = 16;

// Queries [q, d] as they are compared: of norm one for kCosine, else the same.
inline Numbers<float> Prepared(const Problem& p) {
  auto made = Uninitialized<float>(static_cast<size_t>(p.q) * p.d);
  for (int i = 0; i < p.q; ++i) {
    const float* from = p.queries + static_cast<ptrdiff_t>(i) * p.d;
    float* to = made.get() + static_cast<ptrdiff_t>(i) * p.d;
    float inverse = p.metric == Metric::kCosine ? InverseNorm(from, p.d) : 1.0f;
    for (int j = 0; j < p.d; ++j) to[j] = from[j] * inverse;
  }
  return made;
}

// The form that these many queries take. Serves one thread, and one range of queries.
class Look {
 public:
  explicit Look(const Problem& p) : few_(p.few() ? new Few(p) : nullptr), wide_(p) {}
  void operator()(Found& found, int begin, int end) {
    few_ ? few_->Run(found, begin, end) : wide_.Run(found, begin, end);
  }

 private:
  std::unique_ptr<Few> few_;
  Wide wide_;
};

// Writes the answer: nearest first, -infinity, n and false where there is none. `threads`: how many calls `parallel`
// makes at a time.
inline void Search(Problem p, int threads, const Parallel& parallel, const Answer& answer) {
  auto queries = Prepared(p);
  p.queries = queries.get();
  int64_t work = static_cast<int64_t>(p.q) * p.n * p.d, worth = p.few() ? kWorthAThread : kManyWorthAThread;
  int most = static_cast<int>(std::clamp<int64_t>(work / worth, 1, std::max(threads, 1)));
  int panels = p.few() ? 1 : (p.q + kPanel - 1) / kPanel;
  if (panels % most == 0 || panels >= kParts * most) {
    int parts = most == 1 ? 1 : std::min(panels, kParts * most);
    parallel(parts, [&](int i) {
      int first = static_cast<int>(static_cast<int64_t>(panels) * i / parts) * kPanel;
      int last = std::min(p.q, static_cast<int>(static_cast<int64_t>(panels) * (i + 1) / parts) * kPanel);
      Found found(p, first, last);
      Look look(p);
      look(found, 0, p.n);
      Exact exact(p);
      for (int q = first; q < last; ++q) {
        exact.Begin();
        exact.Add(found.best(q - first));
        exact.Write(q, answer);
      }
    });
    return;
  }
  // Too few queries for all threads: each has a share of the keys, which it takes part by part, and then takes parts of
  // the others that they have not begun. Parts of one share are taken in order, as `Best` needs them, so what a thread
  // finds in each share is kept apart. The candidates of all are merged.
  int share = RoundUp((p.n + most - 1) / most, kRows), part = RoundUp(share / kShareParts + 1, 8 * kRows);
  std::vector<std::atomic<int>> next(most);
  std::vector<std::unique_ptr<Found>> found(most * most);
  parallel(most, [&](int thread) {
    Look look(p);
    for (int i = 0; i < most; ++i) {
      int of = (thread + i) % most;
      int64_t end = std::min<int64_t>(p.n, int64_t{share} * (of + 1));
      for (int64_t first; (first = int64_t{share} * of + int64_t{part} * next[of].fetch_add(1)) < end;) {
        auto& best = found[thread * most + of];
        if (!best) best = std::make_unique<Found>(p, 0, p.q);
        look(*best, static_cast<int>(first), static_cast<int>(std::min(end, first + part)));
      }
    }
  });
  int merges = std::clamp<int>(static_cast<int64_t>(p.q) * p.k * p.d / kWorthAThread, 1, std::min(most, p.q));
  parallel(merges, [&](int i) {
    Exact exact(p);
    int last = static_cast<int>(static_cast<int64_t>(p.q) * (i + 1) / merges);
    for (int q = static_cast<int>(static_cast<int64_t>(p.q) * i / merges); q < last; ++q) {
      exact.Begin();
      for (auto& some : found) {
        if (some) exact.Add(some->best(q));
      }
      exact.Write(q, answer);
    }
  });
}

}  // namespace memjax

#endif  // MEMJAX_NATIVE_SEARCH_H_
