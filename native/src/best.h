// The k best slots of one query, as they come.

#ifndef MEMJAX_NATIVE_BEST_H_
#define MEMJAX_NATIVE_BEST_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "simd.h"

namespace memjax {

// Float32 as whole numbers in the same order.
inline int64_t Ordered(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits < 0 ? -static_cast<int64_t>(bits & 0x7FFFFFFF) : bits;
}

inline float FromOrdered(int64_t x) {
  int32_t bits = x < 0 ? static_cast<int32_t>(-x) | INT32_MIN : static_cast<int32_t>(x);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Writes down whatever is above a threshold, in the order in which it comes, which is that of the slots. When there is
// no more room, it looks for a higher threshold that at least k of the ranks exceed, and drops the others. So nothing
// that is among the k best, ties to the lowest slot, is ever dropped or turned away.
class Best {
 public:
  // Places for ranks and slots each.
  static int Room(int k) { return (k + std::max(k, 48) + kLanes - 1) / kLanes * kLanes; }

  void Reset(float* ranks, int32_t* slots, int k) {
    ranks_ = ranks;
    slots_ = slots;
    k_ = k;
    room_ = k == 1 ? 1 : Room(k);
    count_ = 0;
    ranks_[0] = -std::numeric_limits<float>::infinity();
  }

  // Adds a rank above the threshold, and says whether that has to be raised before the next one comes.
  bool Push(float rank, int32_t slot) {
    ranks_[count_] = rank;
    slots_[count_] = slot;
    return ++count_ == room_;
  }

  // Drops what is not among the k best and a few more, of a full room; returns the threshold from now on.
  float Raise() {
    if (k_ == 1) {  // Why: the one above the threshold is the best so far, and the next one takes its place.
      count_ = 0;
      return ranks_[0];
    }
    Lanes most = Load(ranks_), least = most;
    for (int i = kLanes; i < room_; i += kLanes) {
      most = Max(most, Load(ranks_ + i));
      least = Min(least, Load(ranks_ + i));
    }
    float lanes[2][kLanes];
    Store(lanes[0], most);
    Store(lanes[1], least);
    float largest = *std::max_element(lanes[0], lanes[0] + kLanes);
    float smallest = *std::min_element(lanes[1], lanes[1] + kLanes);
    int enough = k_ + (room_ - k_) / 4;
    // By bisection: at least k ranks are above `low`, fewer than k above `high`.
    int64_t low = Ordered(smallest) - 1, high = Ordered(largest);
    while (high - low > 1) {
      int64_t middle = low + (high - low) / 2;
      int count = CountAbove(FromOrdered(middle));
      if (count < k_) {
        high = middle;
      } else {
        low = middle;
        if (count <= enough) return Keep(FromOrdered(low), 0);
      }
    }
    // Too many ranks equal `high`: the first of them stay, whose slots are the lowest.
    float tied = FromOrdered(high);
    return Keep(tied, k_ - CountAbove(tied));
  }

  int count() const { return k_ > 1 ? count_ : ranks_[0] > -std::numeric_limits<float>::infinity(); }
  const float* ranks() const { return ranks_; }
  const int32_t* slots() const { return slots_; }

 private:
  int CountAbove(float threshold) const {
    Lanes least = All(threshold);
    int count = 0;
    for (int i = 0; i < room_; i += kLanes) count += __builtin_popcount(Above(Load(ranks_ + i), least));
    return count;
  }

  // Keeps what is above the threshold, and the first `ties` that equal it.
  float Keep(float threshold, int ties) {
    int kept = 0;
    for (int i = 0; i < room_; ++i) {
      bool stays = ranks_[i] > threshold || (ranks_[i] == threshold && ties-- > 0);
      ranks_[kept] = ranks_[i];
      slots_[kept] = slots_[i];
      kept += stays;
    }
    count_ = kept;
    return threshold;
  }

  float* ranks_ = nullptr;
  int32_t* slots_ = nullptr;
  int k_ = 0, room_ = 0, count_ = 0;
};

}  // namespace memjax

#endif  // MEMJAX_NATIVE_BEST_H_
