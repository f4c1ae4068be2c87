#include "scratch.h"

#include <memory>
#include <new>

namespace fastconv::ops {

namespace {

constexpr std::align_val_t kAlignment{64};

struct Free {
  void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
};

struct Buffer {
  std::unique_ptr<void, Free> memory;
  size_t bytes = 0;
};

}  // namespace

void* scratch(Purpose purpose, size_t bytes) {
  thread_local Buffer buffers[2];
  Buffer& buffer = buffers[static_cast<int>(purpose)];
  if (bytes > buffer.bytes) {
    buffer.bytes = 0;
    buffer.memory.reset();
    buffer.memory.reset(::operator new(bytes, kAlignment));
    buffer.bytes = bytes;
  }
  return buffer.memory.get();
}

}  // namespace fastconv::ops
