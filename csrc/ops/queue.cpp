#include "queue.h"

#include <atomic>
#include <thread>

#include "scratch.h"
#include "walk.h"

namespace fastconv::ops {

namespace {

constexpr int64_t kMostThreads = 64;  // parts are bits of a word

struct Stage {
  Work* work;
  int index;
  int64_t parts;

  void run(char* shared, int64_t part) const {
    const int64_t units = work->units[index];
    work->run(index, shared, part * units / parts, (part + 1) * units / parts);
  }
};

struct alignas(64) Progress {
  std::atomic<uint64_t> taken{0};  // a bit a part
  std::atomic<int64_t> done{0};

  // Waits for the parts that others have taken.
  void wait(int64_t parts) const {
    constexpr int kSpinsBeforeYield = 20000;  // about 0.2 ms
    for (int spins = 0; done.load(std::memory_order_acquire) < parts; ++spins) {
      if (spins > kSpinsBeforeYield) std::this_thread::yield();
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }
};

// How many threads work of so many nanoseconds is worth.
int64_t threads_for(double cost, double worth_a_thread) {
  return 1 + static_cast<int64_t>(std::min(cost / worth_a_thread, double(kMostThreads - 1)));
}

// A stage is cut into parts, at most one a thread. A thread takes its own part first, so that what
// it wrote a stage ago is in its caches, and then any that nobody has begun: no thread waits for
// one that the pool has yet to start, and pools that run one task after another do not hang.
void run_on_threads(const std::vector<Stage>& stages, char* shared, int64_t threads) {
  std::vector<Progress> progress(stages.size());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t thread, int64_t) {
    [[maybe_unused]] const FlushSubnormals flush;
    for (size_t s = 0; s < stages.size(); ++s) {
      const int64_t parts = stages[s].parts;
      Progress& now = progress[s];
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t part = (thread + i) % parts;
        const uint64_t bit = uint64_t{1} << part;
        if (now.taken.fetch_or(bit, std::memory_order_relaxed) & bit) continue;
        struct Done {  // also where the work throws: the others must not wait for ever
          std::atomic<int64_t>& count;
          ~Done() { count.fetch_add(1, std::memory_order_release); }
        } when_done{now.done};
        stages[s].run(shared, part);
      }
      if (s + 1 < stages.size()) now.wait(parts);  // for the last one the pool itself waits
    }
  });
}

}  // namespace

void Queue::run() {
  constexpr double kWakingAThread = 4000;   // ns; 2 to 4 were measured
  constexpr double kMeetingAThread = 1000;  // that is awake: a guess, no rival was timed
  const int64_t pool = std::min<int64_t>(torch::stable::get_num_threads(), kMostThreads);
  for (const auto& work : works_) count(work->variant);
  const Works works = works_.size() == 1 ? std::move(works_) : with_walks(works_, pool);
  works_.clear();
  double cost = 0;
  int64_t bytes = 0, most_units = 0;
  for (const auto& work : works) {
    bytes = std::max(bytes, work->shared_bytes);
    for (double one : work->cost) cost += one;
    for (int64_t units : work->units) most_units = std::max(most_units, units);
  }
  char* shared = bytes > 0 ? static_cast<char*>(scratch(Purpose::kShared, bytes)) : nullptr;
  const int64_t threads = std::min({pool, most_units, threads_for(cost, kWakingAThread)});
  std::vector<Stage> stages;
  stages.reserve(works.size() * Work::kMostStages);
  for (const auto& work : works) {
    for (int i = 0; i < Work::kMostStages; ++i) {
      const int64_t worth = threads_for(work->cost[i], kMeetingAThread);
      const int64_t parts = std::min({threads, work->units[i], worth});
      if (parts > 0) stages.push_back({work.get(), i, parts});
    }
  }
  if (threads > 1) return run_on_threads(stages, shared, threads);
  [[maybe_unused]] const FlushSubnormals flush;
  for (const Stage& stage : stages) stage.run(shared, 0);
}

}  // namespace fastconv::ops
