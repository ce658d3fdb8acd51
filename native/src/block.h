// A stretch of keys, ready to be ranked.

#ifndef MEMJAX_NATIVE_BLOCK_H_
#define MEMJAX_NATIVE_BLOCK_H_

#include <algorithm>
#include <cmath>
#include <memory>

#include "problem.h"

namespace memjax {

inline constexpr int kBlockBytes = 96 * 1024;  // of keys, which the second cache holds beside queries

// A stretch of keys in float32, and what makes a rank of each product: product * times + plus.
class Block {
 public:
  // `in_place`: nobody asks for rows in float32, so keys of another type are not converted; whoever multiplies keys
  // measures them too, and says so by `Measured`. `bytes`: of keys, were they float32; there are no more keys than a
  // 96th of that, since each has two numbers beside it.
  Block(const Problem& problem, bool in_place, int bytes = kBlockBytes)
      : p_(problem), in_place_(in_place), copied_(!in_place && problem.type != KeyType::kFloat32) {
    size_ = std::clamp(bytes / (4 * p_.d), 1, bytes / 96) / kRows * kRows;
    size_ = std::min(std::max(size_, kRows), RoundUp(problem.n, kRows));
    room_ = RoundUp(size_, kLanes);
    if (copied_) rows_ = Uninitialized<float>(static_cast<size_t>(size_) * p_.d);
    times_ = Uninitialized<float>(room_);
    plus_ = Uninitialized<float>(room_);
  }

  int size() const { return size_; }
  int count() const { return count_; }
  bool copied() const { return copied_; }
  const float* row(int i) const { return begin_ + static_cast<ptrdiff_t>(i) * p_.d; }
  const float* times() const { return times_.get(); }
  const float* plus() const { return plus_.get(); }

  void Load(int first, int last) {
    first_ = first;
    count_ = std::min(size_, last - first);
    begin_ = copied_ ? rows_.get() : static_cast<const float*>(p_.keys) + static_cast<ptrdiff_t>(first) * p_.d;
    for (int i = 0; copied_ && i < count_; ++i) {
      ReadKey(p_, first + i, p_.d, rows_.get() + static_cast<ptrdiff_t>(i) * p_.d);
    }
    for (int i = 0; i < count_; ++i) {
      times_[i] = 1.0f;
      if (p_.metric == Metric::kCosine) {
        times_[i] = p_.norms ? p_.norms[first + i] : in_place_ ? 0.0f : InverseNorm(row(i), p_.d);
      }
      plus_[i] = p_.valid && !p_.valid[first + i] ? -kInfinity : 0.0f;
    }
    std::fill(times_.get() + count_, times_.get() + room_, 0.0f);
    std::fill(plus_.get() + count_, plus_.get() + room_, -kInfinity);
  }

  // kCosine without norms: the sums of squares of the keys.
  void Measured(const float* squares) {
    Numbers<float> key;
    for (int i = 0; i < count_; ++i) {
      times_[i] = 1.0f / std::sqrt(squares[i]);
      if (squares[i] > 1e-30f && squares[i] < 1e30f) continue;
      // Why: squares vanished or overflowed.
      int width = RoundUp(p_.d, kLanes);
      if (!key) key = Uninitialized<float>(width);
      ReadKey(p_, first_ + i, width, key.get());
      times_[i] = InverseNorm(key.get(), p_.d);
    }
  }

 private:
  const Problem& p_;
  int size_, room_, first_ = 0, count_ = 0;
  bool in_place_, copied_;
  const float* begin_ = nullptr;
  Numbers<float> rows_, times_, plus_;
};

}  // namespace memjax

#endif  // MEMJAX_NATIVE_BLOCK_H_
