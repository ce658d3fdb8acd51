// The end of a search: scores of the candidates from the keys themselves, in one fixed order, and the best of them.

#ifndef MEMJAX_NATIVE_EXACT_H_
#define MEMJAX_NATIVE_EXACT_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "best.h"
#include "problem.h"

namespace memjax {

// A score and its slot: the nearer first, and of equal scores the lower slot.
struct Candidate {
  float score;
  int32_t slot;
  bool operator<(const Candidate& other) const {
    return score > other.score || (score == other.score && slot < other.slot);
  }
};

// Serves one thread.
class Exact {
 public:
  explicit Exact(const Problem& problem)
      : p_(problem),
        known_(problem.few() && problem.metric != Metric::kCosine),
        width_(RoundUp(problem.d, kLanes)),
        direct_(problem.type == KeyType::kFloat32 && width_ == problem.d),
        query_(Uninitialized<float>(width_)),
        row_(Uninitialized<float>(width_)) {
    std::fill(query_.get() + problem.d, query_.get() + width_, 0.0f);
  }

  void Begin() { candidates_.clear(); }

  void Add(const Best& best) {
    for (int i = 0; i < best.count(); ++i) candidates_.push_back({best.ranks()[i], best.slots()[i]});
  }

  // Writes the row of query i, of what was added since `Begin`: nearest first, -infinity, n and false where there are
  // fewer.
  void Write(int i, const Answer& answer) {
    Keep(p_.k);
    std::memcpy(query_.get(), p_.queries + static_cast<ptrdiff_t>(i) * p_.d, p_.d * sizeof(float));
    size_t count = candidates_.size(), kept = 0;
    for (size_t j = 0; j < count; ++j) {
      float score = candidates_[j].score;
      if (!known_) {
        // Why: rows of a large table lie far apart, and each would be waited for.
        if (direct_ && j + kAhead < count) Fetch(candidates_[j + kAhead].slot);
        score = Score(candidates_[j].slot);
      }
      score += 0.0f;  // Why: -0 is written as 0.
      if (std::isfinite(score)) candidates_[kept++] = {score, candidates_[j].slot};
    }
    candidates_.resize(kept);
    std::sort(candidates_.begin(), candidates_.end());
    int best = answer.count[i] = static_cast<int>(candidates_.size());
    ptrdiff_t row = static_cast<ptrdiff_t>(i) * p_.k;
    for (int j = 0; j < p_.k; ++j) {
      answer.scores[row + j] = j < best ? candidates_[j].score : -kInfinity;
      answer.slots[row + j] = j < best ? candidates_[j].slot : p_.n;
      answer.mask[row + j] = j < best;
    }
  }

 private:
  static constexpr int kAhead = 4;

  void Keep(size_t most) {
    if (candidates_.size() <= most) return;
    std::nth_element(candidates_.begin(), candidates_.begin() + most, candidates_.end());
    candidates_.resize(most);
  }

  void Fetch(int32_t slot) const {
    const float* row = static_cast<const float*>(p_.keys) + static_cast<ptrdiff_t>(slot) * p_.d;
    for (int j = 0; j < std::min(width_, 128); j += 16) __builtin_prefetch(row + j);
  }

  float Score(int32_t slot) {
    const float* row = static_cast<const float*>(p_.keys) + static_cast<ptrdiff_t>(slot) * p_.d;
    if (!direct_) {
      ReadKey(p_, slot, width_, row_.get());
      row = row_.get();
    }
    if (p_.metric == Metric::kDot) return SumOfProducts<false>(query_.get(), row, width_);
    if (p_.metric != Metric::kCosine) return SumOfProducts<true>(query_.get(), row, width_);
    float squares = SumOfProducts<false>(row, row, width_);
    if (squares > 1e-30f && squares < 1e30f) {
      return SumOfProducts<false>(query_.get(), row, width_) / std::sqrt(squares);
    }
    // Why: squares vanished or overflowed, so the key is scaled first.
    float inverse = InverseNorm(row, p_.d);
    for (int j = 0; j < width_; ++j) row_[j] = row[j] * inverse;
    return SumOfProducts<false>(query_.get(), row_.get(), width_);
  }

  const Problem& p_;
  bool known_;  // ranks are scores
  int width_;
  bool direct_;
  Numbers<float> query_, row_;
  std::vector<Candidate> candidates_;
};

}  // namespace memjax

#endif  // MEMJAX_NATIVE_EXACT_H_
