// The build says by FASTCONV_HAS_avx2 and so on which instruction sets it has.
#include "registry.h"

#include <atomic>
#include <initializer_list>

#include "pointwise_conv2d_backward_tiles.h"

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastconv {
namespace {

#if defined(__linux__) && defined(__x86_64__)
// The processor has tiles that multiply bfloat16 and vectors that compute in float16, and Linux
// lets this process use the tiles, for which it must ask once: each thread that does then keeps
// 8 KiB more of state.
bool has_tiles() {
  constexpr unsigned kMultiplyBfloat16 = 1u << 22, kFloat16 = 1u << 23, kTiles = 1u << 24;
  unsigned a, b, c, features = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &features)) return false;
  constexpr unsigned kAll = kMultiplyBfloat16 | kFloat16 | kTiles;
  if ((features & kAll) != kAll) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}
#else
bool has_tiles() {
  return false;
}
#endif

bool processor_runs(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::kAVX512:
      return processor_runs(Isa::kAVX2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::kAVX512BF16:
      return processor_runs(Isa::kAVX512) && __builtin_cpu_supports("avx512bf16");
    case Isa::kAMX:
      return processor_runs(Isa::kAVX512BF16) && has_tiles();
    default:
      break;
  }
#endif
  return isa == Isa::kScalar || isa == Isa::kAMXEmulated;
}

bool is_built(Isa isa) {
  switch (isa) {
    case Isa::kAVX2:
      return FASTCONV_HAS_avx2;
    case Isa::kAVX512:
      return FASTCONV_HAS_avx512;
    case Isa::kAVX512BF16:
      return FASTCONV_HAS_avx512_bf16;
    case Isa::kAMX:
      return FASTCONV_HAS_amx;
    default:
      return true;
  }
}

std::atomic<Isa>& selected() {
  static std::atomic<Isa> isa{detect_isa()};
  return isa;
}

}  // namespace

bool supports(Isa isa) {
  return is_built(isa) && processor_runs(isa);
}

Isa detect_isa() {
  for (const Isa isa : {Isa::kAMX, Isa::kAVX512BF16, Isa::kAVX512, Isa::kAVX2}) {
    if (supports(isa)) return isa;
  }
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

bool has_vectors() {
  return current_isa() != Isa::kScalar && current_isa() != Isa::kAMXEmulated;
}

bool has_fused_blocks(DType dtype) {
  return has_vectors() || (current_isa() == Isa::kAMXEmulated && dtype == DType::kBFloat16);
}

// A case of a switch where the build has this instruction set: FASTCONV_HAS_... is 0 or 1.
#define FASTCONV_IF_0(text)
#define FASTCONV_IF_1(text) text
#define FASTCONV_PASTE(a, b) a##b
#define FASTCONV_IF(condition, text) FASTCONV_PASTE(FASTCONV_IF_, condition)(text)
#define FASTCONV_CASE(value, isa, op) \
  FASTCONV_IF(FASTCONV_HAS_##isa, case Isa::value : return isa::op##_kernels;)

#define FASTCONV_NO_TILES(op) case Isa::kAMX:
#define FASTCONV_TILES(op)     \
  FASTCONV_CASE(kAMX, amx, op) \
  case Isa::kAMXEmulated:      \
    return amx_emulated::op##_kernels;
#define FASTCONV_SELECT_FROM(op, Kernels, TILES)  \
  const Kernels& op##_kernels() {                 \
    switch (current_isa()) {                      \
      TILES(op)                                   \
      FASTCONV_CASE(kAVX512BF16, avx512_bf16, op) \
      FASTCONV_CASE(kAVX512, avx512, op)          \
      FASTCONV_CASE(kAVX2, avx2, op)              \
      default:                                    \
        return scalar::op##_kernels;              \
    }                                             \
  }
#define FASTCONV_SELECT(op, Kernels) FASTCONV_SELECT_FROM(op, Kernels, FASTCONV_NO_TILES)
#define FASTCONV_SELECT_TILED(op, Kernels) FASTCONV_SELECT_FROM(op, Kernels, FASTCONV_TILES)
FASTCONV_FOR_EACH_VECTOR_OP(FASTCONV_SELECT)
FASTCONV_FOR_EACH_TILED_OP(FASTCONV_SELECT_TILED)

const PointwiseConv2dBackwardKernels* pointwise_conv2d_backward_tiles() {
  switch (current_isa()) {
    FASTCONV_IF(FASTCONV_HAS_amx,
                case Isa::kAMX : return &amx::pointwise_conv2d_backward_tiles_kernels;)
    case Isa::kAMXEmulated:
      return &amx_emulated::pointwise_conv2d_backward_tiles_kernels;
    default:
      return nullptr;
  }
}

}  // namespace fastconv
