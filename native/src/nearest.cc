// The calls that XLA makes: `memjax_nearest` of queries, keys and what may be said of keys, and `memjax_rows` of tables.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "rows.h"
#include "search.h"
#include "xla/ffi/api/c_api.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// Why names: the commas of template arguments would be taken for those of the macro below.
using F32s = ffi::Buffer<ffi::F32, 1>;
using S32s = ffi::Buffer<ffi::S32, 1>;
using Flags = ffi::Buffer<ffi::PRED, 1>;
using F32Matrix = ffi::Buffer<ffi::F32, 2>;
using S32Matrix = ffi::Buffer<ffi::S32, 2>;
using FlagMatrix = ffi::Buffer<ffi::PRED, 2>;

namespace memjax {
namespace {

constexpr int kPatience = 2000;  // turns of some ten nanoseconds
constexpr int64_t kCopied = 1 << 18;  // bytes of rows that are worth another thread

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Calls f(0) to f(count - 1) on the threads of `pool` and on this one. It never waits for a call that has not begun, so
// a pool whose threads are all busy makes it slow and not stuck.
void InParallel(ffi::ThreadPool& pool, int count, const std::function<void(int)>& f) {
  struct State {
    std::atomic<int> next{0};
    std::atomic<int> finished{0};
    std::mutex mutex;
    std::condition_variable done;
  };
  if (count == 1) return f(0);
  // Why shared: a task of the pool may start after this function has returned; it then finds nothing to do.
  auto state = std::make_shared<State>();
  auto* call = &f;
  auto work = [state, call, count] {
    for (int i; (i = state->next.fetch_add(1)) < count;) {
      (*call)(i);
      if (state->finished.fetch_add(1) + 1 < count) continue;
      std::lock_guard<std::mutex> lock(state->mutex);
      state->done.notify_all();
    }
  };
  for (int i = 1; i < count; ++i) pool.Schedule(std::function<void()>(work));
  work();
  // Why: what the others still do takes some microseconds, and to be woken takes longer.
  for (int i = 0; i < kPatience && state->finished < count; ++i) Pause();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->done.wait(lock, [&] { return state->finished == count; });
}

template <ffi::DataType type, typename T>
const T* Optional(const ffi::Buffer<type, 1>& buffer) {
  return buffer.element_count() ? reinterpret_cast<const T*>(buffer.untyped_data()) : nullptr;
}

ffi::Error Nearest(ffi::ThreadPool pool, F32Matrix queries, ffi::AnyBuffer keys, F32s scale, F32s norms, Flags valid,
                   S32s group, S32s exclude, int32_t metric, ffi::Result<F32Matrix> scores,
                   ffi::Result<S32Matrix> slots, ffi::Result<FlagMatrix> mask, ffi::Result<S32s> count) {
  Problem p;
  p.queries = queries.typed_data();
  p.keys = keys.untyped_data();
  switch (keys.element_type()) {
    case ffi::F32: p.type = KeyType::kFloat32; break;
    case ffi::BF16: p.type = KeyType::kBfloat16; break;
    case ffi::S8: p.type = KeyType::kInt8; break;
    default: return ffi::Error::InvalidArgument("memjax_nearest: keys must be float32, bfloat16 or int8");
  }
  p.scale = Optional<ffi::F32, float>(scale);
  p.norms = Optional<ffi::F32, float>(norms);
  p.valid = Optional<ffi::PRED, bool>(valid);
  p.group = Optional<ffi::S32, int32_t>(group);
  p.exclude = Optional<ffi::S32, int32_t>(exclude);
  p.metric = static_cast<Metric>(metric);
  p.q = static_cast<int>(queries.dimensions()[0]);
  p.d = static_cast<int>(queries.dimensions()[1]);
  p.n = static_cast<int>(keys.dimensions()[0]);
  p.k = static_cast<int>(slots->dimensions()[1]);
  Parallel parallel = [&](int count, const std::function<void(int)>& f) { InParallel(pool, count, f); };
  Answer answer{scores->typed_data(), slots->typed_data(), mask->typed_data(), count->typed_data()};
  Search(p, static_cast<int>(pool.num_threads()), parallel, answer);
  return ffi::Error::Success();
}

// Of every table the rows in `slots`; where `mask` is false, bytes of value `fill`.
ffi::Error GatherRows(ffi::ThreadPool pool, S32s slots, Flags mask, ffi::RemainingArgs tables, int32_t fill,
                      ffi::RemainingRets found) {
  Wanted wanted{slots.typed_data(), mask.typed_data(), static_cast<int64_t>(slots.element_count())};
  for (size_t i = 0; i < tables.size(); ++i) {
    auto table = tables.get<ffi::AnyBuffer>(i);
    auto rows = found.get<ffi::AnyBuffer>(i);
    if (!table || !rows) return ffi::Error::InvalidArgument("memjax_rows: as many results as tables");
    Rows of{static_cast<const char*>(table->untyped_data()), static_cast<char*>((*rows)->untyped_data()),
            table->dimensions()[0], 0};
    of.bytes = static_cast<int64_t>(table->size_bytes()) / of.n;
    int parts = static_cast<int>(std::clamp<int64_t>(wanted.count * of.bytes / kCopied, 1, pool.num_threads()));
    InParallel(pool, parts, [&](int part) {
      of.Copy(wanted, static_cast<char>(fill), wanted.count * part / parts, wanted.count * (part + 1) / parts);
    });
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace memjax

#define MEMJAX_EXPORT extern "C" __attribute__((visibility("default")))

MEMJAX_EXPORT XLA_FFI_Error* memjax_nearest(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(memjax_nearest, memjax::Nearest,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32Matrix>()        // queries
                                  .Arg<ffi::AnyBuffer>()   // keys
                                  .Arg<F32s>()             // scale
                                  .Arg<F32s>()             // norms
                                  .Arg<Flags>()            // valid
                                  .Arg<S32s>()             // group
                                  .Arg<S32s>()             // exclude
                                  .Attr<int32_t>("metric")
                                  .Ret<F32Matrix>()        // scores
                                  .Ret<S32Matrix>()        // slots
                                  .Ret<FlagMatrix>()       // mask
                                  .Ret<S32s>());           // count

MEMJAX_EXPORT XLA_FFI_Error* memjax_rows(XLA_FFI_CallFrame* call_frame);

XLA_FFI_DEFINE_HANDLER_SYMBOL(memjax_rows, memjax::GatherRows,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<S32s>()             // slots
                                  .Arg<Flags>()            // mask
                                  .RemainingArgs()         // tables
                                  .Attr<int32_t>("fill")
                                  .RemainingRets());       // rows

// Which of the builds this processor runs: 2 AVX-512, 1 AVX2 with FMA, 0 neither.
MEMJAX_EXPORT int memjax_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return 1;
#endif
  return 0;
}
