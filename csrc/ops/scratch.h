// Memory for the time of a call, kept by each thread and grown as needed: no allocation a call.
#pragma once

#include <cstddef>

namespace fastconv::ops {

// One buffer of each purpose a thread: a call holds the one its threads share while the thread
// that called also takes a part of the work, with scratch of its own, and with what passes between
// works that it walks through (walk.h).
enum class Purpose { kShared, kOwn, kPassed };

// At least `bytes` bytes, aligned to 64, this thread's until it asks for the same purpose again.
void* scratch(Purpose purpose, size_t bytes);

// A large result is fresh memory: with 4 KiB pages its first write costs a page fault each.
// EfficientNet-Lite0, optimized, batch 16: 58 and 60 ms without the advice, 50 and 53 ms with it
// (medians of 30 calls, 2 threads, Zen 5).
void advise_huge_pages(void* memory, size_t bytes);

}  // namespace fastconv::ops
