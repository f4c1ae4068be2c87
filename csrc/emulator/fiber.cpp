#include "fiber.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "cuda.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastconv::emulator {

State state;

namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr int kLanes = 32;
constexpr int kMostExchanged = 64;
constexpr int kCopied = 16;

struct Barrier {
  int arrived = 0;
  int64_t generation = 0;
};

struct Warp {
  Barrier barrier;
  int live = 0;
  unsigned char values[kLanes][kMostExchanged];
};

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Fiber {
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  jmp_buf resume;
  bool started = false, ended = false;
  std::deque<std::vector<Copy>> copies;  // groups that are under way, the last one open
};

// All that a running block is. Fibers keep their stacks from block to block.
struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  int live = 0;
  int current = 0;
  bool vote = false;
  int64_t progress = 0;  // counts what ends a wait
  void (*body)(const void*) = nullptr;
  const void* argument = nullptr;
  jmp_buf scheduler;
  ucontext_t origin;
  const void* origin_stack = nullptr;
  size_t origin_bytes = 0;
};
Block block;

// AddressSanitizer must know on which stack the code runs.
#if defined(__SANITIZE_ADDRESS__)
void enter(void** fake, const void* stack, size_t bytes) {
  __sanitizer_start_switch_fiber(fake, stack, bytes);
}
void entered(void* fake, const void** stack, size_t* bytes) {
  __sanitizer_finish_switch_fiber(fake, stack, bytes);
}
#else
void enter(void**, const void*, size_t) {}
void entered(void*, const void**, size_t*) {}
#endif

void to_scheduler(bool for_good) {
  void* fake = nullptr;
  enter(for_good ? nullptr : &fake, block.origin_stack, block.origin_bytes);
  if (for_good) _longjmp(block.scheduler, 1);
  if (_setjmp(block.fibers[block.current].resume) == 0) _longjmp(block.scheduler, 1);
  entered(fake, nullptr, nullptr);
}

void release(Barrier& barrier) {
  barrier.arrived = 0;
  ++barrier.generation;
  ++block.progress;
}

void wait(Barrier& barrier, const int& live) {
  const int64_t generation = barrier.generation;
  if (++barrier.arrived == live) return release(barrier);
  while (barrier.generation == generation) to_scheduler(false);
}

// A thread that ends is no longer waited for.
void leave(Barrier& barrier, int& live) {
  --live;
  if (live > 0 && barrier.arrived == live) release(barrier);
}

void main_of_fiber() {
  entered(nullptr, &block.origin_stack, &block.origin_bytes);
  block.body(block.argument);
  block.fibers[block.current].ended = true;
  ++block.progress;
  Warp& warp = block.warps[block.current / kLanes];
  leave(warp.barrier, warp.live);
  leave(block.barrier, block.live);
  to_scheduler(true);
}

void turn(int index) {
  Fiber& fiber = block.fibers[index];
  block.current = index;
  state.thread = {unsigned(index), 0, 0};
  void* fake = nullptr;
  if (_setjmp(block.scheduler) == 0) {
    enter(&fake, fiber.stack.get(), kStackBytes);
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, main_of_fiber, 0);
    setcontext(&context);
  }
  entered(fake, nullptr, nullptr);
}

int ordered(int i, int threads, Order order) {
  switch (order) {
    case Order::kForward:
      return i;
    case Order::kBackward:
      return threads - 1 - i;
    default:
      return (i + threads / 2 + 1) % threads;
  }
}

}  // namespace

std::string run_block(int threads, Order order, void (*body)(const void*), const void* argument) {
  if (int(block.fibers.size()) < threads) block.fibers.resize(threads);
  block.warps.assign((threads + kLanes - 1) / kLanes, Warp{});
  for (int i = 0; i < threads; ++i) ++block.warps[i / kLanes].live;
  for (Fiber& fiber : block.fibers) {
    fiber.started = fiber.ended = false;
    fiber.copies.assign(1, {});
  }
  block.barrier = Barrier{};
  block.live = threads;
  block.body = body;
  block.argument = argument;
  while (block.live > 0) {
    const int64_t before = block.progress;
    for (int i = 0; i < threads; ++i) {
      const int index = ordered(i, threads, order);
      if (!block.fibers[index].ended) turn(index);
    }
    if (block.progress == before) return "a barrier was not reached by all threads";
  }
  return "";
}

void sync_block() {
  wait(block.barrier, block.live);
}

bool sync_block_or(bool vote) {
  if (vote) block.vote = true;
  sync_block();
  const bool any = block.vote;
  sync_block();
  block.vote = false;
  sync_block();
  return any;
}

void copy_async(void* to, const void* from, int bytes) {
  block.fibers[block.current].copies.back().push_back({to, from, bytes});
}

void commit_copies() {
  block.fibers[block.current].copies.emplace_back();
}

void wait_copies(int pending) {
  auto& copies = block.fibers[block.current].copies;
  while (int(copies.size()) - 1 > pending) {
    for (const Copy& copy : copies.front()) {
      std::memset(copy.to, 0, kCopied);
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
    copies.pop_front();
  }
}

void sync_warp(unsigned) {
  Warp& warp = block.warps[block.current / kLanes];
  wait(warp.barrier, warp.live);
}

void exchange(unsigned mask, const void* mine, void* theirs, int source, int bytes) {
  Warp& warp = block.warps[block.current / kLanes];
  std::memcpy(warp.values[block.current % kLanes], mine, bytes);
  sync_warp(mask);
  std::memcpy(theirs, warp.values[source], bytes);
  sync_warp(mask);
}

void gather(const void* mine, void* all, int bytes) {
  Warp& warp = block.warps[block.current / kLanes];
  std::memcpy(warp.values[block.current % kLanes], mine, bytes);
  sync_warp(~0u);
  for (int lane = 0; lane < kLanes; ++lane) {
    std::memcpy(static_cast<unsigned char*>(all) + lane * bytes, warp.values[lane], bytes);
  }
  sync_warp(~0u);
}

}  // namespace fastconv::emulator
