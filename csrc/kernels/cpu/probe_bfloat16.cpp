// What one core multiplies of bfloat16: by matrix tiles where there are some, else by pairs.
#include "../probe.h"

#include "registry.h"
#include "simd/pairs.h"
#include "simd/tiles.h"

namespace fastconv::FASTCONV_ISA {
namespace {

constexpr int kChains = 12;        // as in probe.cpp
constexpr int kTilesTogether = 8;  // a product of tiles takes as long as 8 to 16 of vectors

float multiply_pairs(int64_t rounds, int64_t& operations) {
  const bfloat16 half[2 * kLanes<float>] = {{0x3f00}, {0x3f00}};
  const VecPairs a = set1_pair(half), b = load_pairs(half);
  VecF sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = VecF::set1(static_cast<float>(i));
  for (int64_t step = 0; step < rounds * kProbeRound; ++step) {
    for (VecF& sum : sums) sum = fma_pairs(a, b, sum);
  }
  operations += rounds * kProbeRound * kChains * kLanes<float> * 4;
  for (int i = 1; i < kChains; ++i) sums[0] = sums[0] + sums[i];
  return reduce_add(sums[0]);
}

template <class Matrix>
float multiply_tiles(Matrix& tiles, int64_t rounds, int64_t& operations) {
  constexpr int64_t kSums = 4, kRow = 2 * kTilePairs;
  const bfloat16 ones[kRow] = {{0x3f80}, {0x3f80}};
  const int64_t steps = rounds * kProbeRound / kTilesTogether;
  tiles.set_shape({kTileRegisterRows, kTileRegisterColumns, kTilePairs});
  tiles.template zero<0>(), tiles.template zero<1>();
  tiles.template zero<2>(), tiles.template zero<3>();
  tiles.template load<4>(ones, 0), tiles.template load<5>(ones, 0);
  for (int64_t step = 0; step < steps; ++step) {
    tiles.template multiply<0, 4, 5>(), tiles.template multiply<1, 4, 5>();
    tiles.template multiply<2, 4, 5>(), tiles.template multiply<3, 4, 5>();
  }
  operations += steps * kSums * kTileRegisterRows * kTileRegisterColumns * kRow * 2;
  float sums[kTileRegisterRows][kTileRegisterColumns];
  tiles.template store<0>(sums, sizeof sums[0]);
  return sums[0][0];
}

float multiply_add(int64_t rounds, int64_t& operations) {
  if constexpr (kHasTiles) {
    Tiles tiles;
    return multiply_tiles(tiles, rounds, operations);
  } else {
    return multiply_pairs(rounds, operations);
  }
}

}  // namespace

const ProbeBfloat16Kernels probe_bfloat16_kernels = {multiply_add};

}  // namespace fastconv::FASTCONV_ISA
