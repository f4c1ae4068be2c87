// The threads of one block as fibers: each runs until it waits, then the next has its turn.
#pragma once

#include <cstddef>
#include <string>

namespace fastconv::emulator {

// In which order the threads of a block start, and take their turns.
enum class Order { kForward, kBackward, kRotated };

// Runs body() once for each of `threads` threads, `state.thread` set; returns once all have ended,
// an error where they cannot: a barrier that only some of them reach.
std::string run_block(int threads, Order order, void (*body)(const void*), const void* argument);

}  // namespace fastconv::emulator
