#include "counters.h"

#include <atomic>

namespace fastconv::ops {

namespace {
std::atomic<int64_t> counters[static_cast<int>(Variant::kCount)];
}

void count(Variant variant) {
  counters[static_cast<int>(variant)].fetch_add(1, std::memory_order_relaxed);
}

int64_t times_run(Variant variant) {
  return counters[static_cast<int>(variant)].load(std::memory_order_relaxed);
}

}  // namespace fastconv::ops
