// What one core can do: independent multiply-adds, and plain walks over memory.
#include "../probe.h"

#include "registry.h"
#include "simd/simd.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int L = kLanes<float>;
constexpr int kChains = 12;  // two units of four to five cycles want ten in flight

float multiply_add(int64_t rounds, int64_t& operations) {
  const VecF factor = VecF::set1(0.75f);
  VecF sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = VecF::set1(static_cast<float>(i));
  for (int64_t step = 0; step < rounds * kProbeRound; ++step) {
    for (VecF& sum : sums) sum = fma(sum, factor, factor);
  }
  operations += rounds * kProbeRound * kChains * L * 2;
  for (int i = 1; i < kChains; ++i) sums[0] = sums[0] + sums[i];
  return reduce_add(sums[0]);
}

// As in a matrix product: every second factor is loaded.
float multiply_add_loading(int64_t rounds, int64_t& operations) {
  constexpr int kPlaces = 16, kLoads = kChains / 2;
  alignas(64) float factors[(kPlaces + kLoads) * L];
  for (float& factor : factors) factor = 0.75f;
  const VecF addend = VecF::set1(0.75f);
  VecF sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = VecF::set1(static_cast<float>(i));
  for (int64_t step = 0; step < rounds * kProbeRound; ++step) {
    const float* from = factors + step % kPlaces * L;
    for (int i = 0; i < kChains; i += 2) {
      sums[i] = fma(sums[i], load(from + i / 2 * L), addend);
      sums[i + 1] = fma(sums[i + 1], addend, addend);
    }
  }
  operations += rounds * kProbeRound * kChains * L * 2;
  for (int i = 1; i < kChains; ++i) sums[0] = sums[0] + sums[i];
  return reduce_add(sums[0]);
}

float read(const float* data, int64_t count) {
  constexpr int kRun = 8;
  VecF sums[kRun];
  for (VecF& sum : sums) sum = VecF::set1(0.0f);
  for (int64_t i = 0; i + kRun * L <= count; i += kRun * L) {
    for (int j = 0; j < kRun; ++j) sums[j] = sums[j] + load(data + i + j * L);
  }
  for (int j = 1; j < kRun; ++j) sums[0] = sums[0] + sums[j];
  return reduce_add(sums[0]);
}

void copy(const float* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; i += L) {
    const int64_t n = min_of<int64_t>(L, count - i);
    store_partial(to + i, load_partial(from + i, n), n);
  }
}

void stream_copy(const float* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + L <= count; i += L) stream(to + i, load(from + i));
  if (i < count) store_partial(to + i, load_partial(from + i, count - i), count - i);
  stream_fence();
}

}  // namespace

const ProbeKernels probe_kernels = {multiply_add, multiply_add_loading, read, copy, stream_copy};

}  // namespace fastconv::FASTCONV_ISA
