// Runs a grid on the CPU, block after block: the launcher that tests hand to fastconv._C.
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "../kernels/cuda/table.cuh"
#include "cuda.h"
#include "fiber.h"

namespace fastconv::emulator {

namespace {

std::mutex one_at_a_time;
std::string failure;
Order order = Order::kForward;

struct Call {
  const cuda::Instance* instance;
  const void* params;
};

const char* launch(const cuda::Launch& launch, const void* params, void*) {
  const std::lock_guard lock(one_at_a_time);
  const cuda::Instance* instance = cuda::find(launch);
  if (!instance) return "the kernel was not compiled for these template arguments";
  constexpr int kMostThreads = 1024, kMostShared = 227 << 10;
  if (launch.threads > kMostThreads || launch.shared_bytes > kMostShared || launch.blocks < 1 ||
      launch.blocks > 0x7fffffff) {
    return "invalid configuration";
  }
  // Of the exact size, so that AddressSanitizer sees the end.
  constexpr std::align_val_t kAligned{128};
  struct Free {
    void operator()(unsigned char* memory) const { ::operator delete[](memory, kAligned); }
  };
  const std::unique_ptr<unsigned char[], Free> shared(
      new (kAligned) unsigned char[launch.shared_bytes]);
  state.shared = shared.get();
  state.threads = {unsigned(launch.threads), 1, 1};
  state.blocks = {unsigned(launch.blocks), 1, 1};
  const Call call{instance, params};
  for (int64_t i = 0; i < launch.blocks; ++i) {
    state.block = {unsigned(i), 0, 0};
    std::memset(state.shared, 0xff, launch.shared_bytes);  // NaN in every float type
    failure = run_block(
        launch.threads, order,
        [](const void* argument) {
          const Call& call = *static_cast<const Call*>(argument);
          call.instance->call(call.instance->function, call.params);
        },
        &call);
    if (!failure.empty()) return failure.c_str();
  }
  return nullptr;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) cuda::Launcher fastconv_emulator_launcher() {
  return launch;
}

// 0 forward, 1 backward, 2 rotated.
__attribute__((visibility("default"))) void fastconv_emulator_set_order(int value) {
  order = static_cast<Order>(value);
}
}

}  // namespace fastconv::emulator
