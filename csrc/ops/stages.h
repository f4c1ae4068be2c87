// Work in stages, each of which wants the one before to be done, within one call of torch's pool.
#pragma once

#include <atomic>
#include <thread>

#include "tensor.h"

namespace fastconv::ops {

// Runs f(stage, begin, end) over [0, units[stage]) for one stage after the other; cost is the rough
// number of nanoseconds that all of it takes on one thread.
//
// A stage is cut into a part a thread. A thread takes its own part first, so that what it wrote a
// stage ago is in its caches, and then any that nobody has begun: no thread waits for one that the
// pool has yet to start, and pools that run one task after another do not hang.
template <int kStages, class F>
void parallel_stages(const int64_t (&units)[kStages], double cost, const F& f) {
  constexpr int64_t kMostThreads = 64;      // parts are bits of a word
  constexpr double kWorthAThread = 4000;    // as in parallel
  constexpr int kSpinsBeforeYield = 20000;  // about 0.2 ms
  const auto worth = static_cast<int64_t>(std::min(cost / kWorthAThread, double(kMostThreads)));
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), worth);
  if (threads <= 1) {
    for (int stage = 0; stage < kStages; ++stage) {
      if (units[stage] > 0) f(stage, int64_t{0}, units[stage]);
    }
    return;
  }
  int last = kStages - 1;
  while (last > 0 && units[last] == 0) --last;
  struct alignas(64) Progress {
    std::atomic<uint64_t> taken{0};  // a bit a part
    std::atomic<int64_t> done{0};
  };
  Progress progress[kStages];
  torch::stable::parallel_for(0, threads, 1, [&](int64_t thread, int64_t) {
    for (int stage = 0; stage < kStages; ++stage) {
      const int64_t parts = std::min(threads, units[stage]);
      Progress& now = progress[stage];
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t part = (thread + i) % parts;
        const uint64_t bit = uint64_t{1} << part;
        if (now.taken.fetch_or(bit, std::memory_order_relaxed) & bit) continue;
        struct Done {  // also where f throws: the others must not wait for ever
          std::atomic<int64_t>& count;
          ~Done() { count.fetch_add(1, std::memory_order_release); }
        } when_done{now.done};
        f(stage, part * units[stage] / parts, (part + 1) * units[stage] / parts);
      }
      if (stage == last) break;  // the pool itself waits for all
      for (int spins = 0; now.done.load(std::memory_order_acquire) < parts; ++spins) {
        if (spins > kSpinsBeforeYield) std::this_thread::yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    }
  });
}

}  // namespace fastconv::ops
