// What was found so far.

#ifndef MEMJAX_NATIVE_FOUND_H_
#define MEMJAX_NATIVE_FOUND_H_

#include <algorithm>
#include <memory>
#include <vector>

#include "best.h"
#include "problem.h"

namespace memjax {

inline constexpr int kPanel = kPanelRegisters * kLanes;  // queries that are looked for side by side

// The best so far of a range of queries.
class Found {
 public:
  Found(const Problem& problem, int first, int last)
      : p_(problem),
        first_(first),
        count_(last - first),
        ranks_(Uninitialized<float>(static_cast<size_t>(count_) * Best::Room(problem.k))),
        slots_(Uninitialized<int32_t>(static_cast<size_t>(count_) * Best::Room(problem.k))),
        best_(count_),
        thresholds_(RoundUp(count_, kPanel), -kInfinity) {
    for (int i = 0; i < count_; ++i) {
      size_t at = static_cast<size_t>(i) * Best::Room(problem.k);
      best_[i].Reset(ranks_.get() + at, slots_.get() + at, problem.k);
    }
    // Why: lanes without a query find nothing.
    std::fill(thresholds_.begin() + count_, thresholds_.end(), kInfinity);
  }

  const float* thresholds() const { return thresholds_.data(); }
  int first() const { return first_; }
  int count() const { return count_; }
  const Best& best(int i) const { return best_[i]; }

  // Takes the ranks of one slot for the queries i + 0 to i + kLanes - 1 that `bits` names: those above their thresholds.
  void Offer(int i, Lanes ranks, uint32_t bits, int32_t slot) {
    float stored[kLanes];
    Store(stored, ranks);
    for (bits &= Above(All(kInfinity), ranks); bits; bits &= bits - 1) {
      int lane = __builtin_ctz(bits);
      Offer(i + lane, stored[lane], slot);
    }
  }

  // Takes a rank that is above its threshold and finite.
  void Offer(int i, float rank, int32_t slot) {
    if (p_.group && Excluded(i, slot)) return;
    if (best_[i].Push(rank, slot)) thresholds_[i] = best_[i].Raise();
  }

 private:
  bool Excluded(int i, int32_t slot) const {
    int32_t excluded = p_.exclude[first_ + i];
    return excluded >= 0 && p_.group[slot] == excluded;
  }

  const Problem& p_;
  int first_, count_;
  Numbers<float> ranks_;
  Numbers<int32_t> slots_;
  std::vector<Best> best_;
  std::vector<float> thresholds_;
};

}  // namespace memjax

#endif  // MEMJAX_NATIVE_FOUND_H_
