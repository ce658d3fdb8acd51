// Rows of tables by number: what a read returns of the entries that a search has found.

#ifndef MEMJAX_NATIVE_ROWS_H_
#define MEMJAX_NATIVE_ROWS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace memjax {

// Which rows: `slots` and `mask`, `count` of each.
struct Wanted {
  const int32_t* slots;
  const bool* mask;
  int64_t count;
};

// A table of n rows of so many bytes, and where the rows go that are wanted of it.
struct Rows {
  const char* from;
  char* to;
  int64_t n, bytes;

  // Writes the rows [begin, end) of those wanted: bytes of value `fill` where the mask is false. A slot outside of the
  // table is taken for the nearest in it.
  void Copy(const Wanted& wanted, char fill, int64_t begin, int64_t end) const {
    switch (bytes) {
      case 1: return Copy<1>(wanted, fill, begin, end);
      case 4: return Copy<4>(wanted, fill, begin, end);
      case 8: return Copy<8>(wanted, fill, begin, end);
      default: return Copy<0>(wanted, fill, begin, end);
    }
  }

 private:
  // Short rows are copied without a call.
  template <int64_t known>
  void Copy(const Wanted& wanted, char fill, int64_t begin, int64_t end) const {
    const int64_t size = known ? known : bytes;
    for (int64_t i = begin; i < end; ++i) {
      if (wanted.mask[i]) {
        int64_t slot = std::clamp<int64_t>(wanted.slots[i], 0, n - 1);
        std::memcpy(to + i * size, from + slot * size, size);
      } else {
        std::memset(to + i * size, fill, size);
      }
    }
  }
};

}  // namespace memjax

#endif  // MEMJAX_NATIVE_ROWS_H_
