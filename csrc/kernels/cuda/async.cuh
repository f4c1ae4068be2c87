// Copies from global to shared memory that go on while the thread does: sixteen bytes each, without
// a register. What a thread copied it sees after wait_copies; the others after a barrier too.
#pragma once

#include "../common/types.h"

namespace fastconv::cuda {

// The first `bytes` of 16, zeros for the others, which are not read. Both addresses are multiples
// of 16.
FASTCONV_INLINE void copy_part_async(void* to, const void* from, int bytes) {
#if defined(__CUDA_ARCH__)
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes)
               : "memory");
#elif defined(FASTCONV_EMULATED)
  emulator::copy_async(to, from, bytes);
#endif
}

// Zeros where `inside` is false.
FASTCONV_INLINE void copy_async(void* to, const void* from, bool inside) {
#if defined(__CUDA_ARCH__)  // a predicate; a size of 0 or 16 takes five instructions more
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile(
      "{.reg .pred ignored; setp.eq.s32 ignored, %2, 0;"
      "cp.async.cg.shared.global [%0], [%1], 16, ignored;}" ::"r"(shared),
      "l"(from), "r"(int(inside))
      : "memory");
#else
  copy_part_async(to, from, inside ? 16 : 0);
#endif
}

// The copies of this thread since the last commit are a group.
FASTCONV_INLINE void commit_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif defined(FASTCONV_EMULATED)
  emulator::commit_copies();
#endif
}

// Until at most `pending` groups of this thread are under way.
template <int pending>
FASTCONV_INLINE void wait_copies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#elif defined(FASTCONV_EMULATED)
  emulator::wait_copies(pending);
#endif
}

}  // namespace fastconv::cuda
