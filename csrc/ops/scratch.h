// Memory for the time of a call, kept by each thread and grown as needed: no allocation a call.
#pragma once

#include <cstddef>

namespace fastconv::ops {

// One buffer of each purpose a thread: a call holds the one its threads share while the thread
// that called also takes a part of the work, with scratch of its own.
enum class Purpose { kShared, kOwn };

// At least `bytes` bytes, aligned to 64, this thread's until it asks for the same purpose again.
void* scratch(Purpose purpose, size_t bytes);

}  // namespace fastconv::ops
