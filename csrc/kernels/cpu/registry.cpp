#include "registry.h"

#include <atomic>

namespace fastconv {
namespace {

bool supports(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::kAVX512:
      return supports(Isa::kAVX2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::kAVX512BF16:
      return supports(Isa::kAVX512) && __builtin_cpu_supports("avx512bf16");
  }
#endif
  return isa == Isa::kScalar;
}

std::atomic<Isa>& selected() {
  static std::atomic<Isa> isa{detect_isa()};
  return isa;
}

}  // namespace

Isa detect_isa() {
  if (supports(Isa::kAVX512BF16)) return Isa::kAVX512BF16;
  if (supports(Isa::kAVX512)) return Isa::kAVX512;
  if (supports(Isa::kAVX2)) return Isa::kAVX2;
  return Isa::kScalar;
}

Isa current_isa() {
  return selected().load(std::memory_order_relaxed);
}

bool set_isa(Isa isa) {
  if (!supports(isa)) return false;
  selected().store(isa, std::memory_order_relaxed);
  return true;
}

#if defined(__x86_64__)
#define FASTCONV_SELECT(op, Kernels)      \
  const Kernels& op##_kernels() {         \
    switch (current_isa()) {              \
      case Isa::kAVX512BF16:              \
        return avx512_bf16::op##_kernels; \
      case Isa::kAVX512:                  \
        return avx512::op##_kernels;      \
      case Isa::kAVX2:                    \
        return avx2::op##_kernels;        \
      case Isa::kScalar:                  \
        break;                            \
    }                                     \
    return scalar::op##_kernels;          \
  }
#else
#define FASTCONV_SELECT(op, Kernels) \
  const Kernels& op##_kernels() {    \
    return scalar::op##_kernels;     \
  }
#endif
FASTCONV_FOR_EACH_OP(FASTCONV_SELECT)

}  // namespace fastconv
