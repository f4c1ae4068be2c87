#include "inverted_residual.h"

#include "plan.h"

namespace fastconv::cuda {

namespace {

// Output channels of the projection's sums.
int outs_of(const InvertedResidualShape& p, const Device& device) {
  return p.out_channels <= 32 ? 32 : p.out_channels <= 64 && device.compiles ? 64 : 128;
}

int shared_bytes(const InvertedResidualShape& p, const Device& device) {
  const int64_t chunks = div_up<int64_t>(p.in_channels, kChunk);
  const int64_t inputs = (p.expands ? chunks + 1 : 2) * kBlockHalo;
  const int64_t weights = 2 * ((p.expands ? chunks * kChunk : 0) + outs_of(p, device));
  return int(2 * kChunkPitch * (inputs + kBlockPixels + weights));
}

// Pixels per tile and tiles per map, as even as can be: no side longer than `most`.
int even(int64_t pixels, int64_t most) {
  return int(div_up(pixels, div_up(pixels, most)));
}

// The rectangle with which the whole map costs least: rows of the expansion and of the rest.
bool choose_tile(InvertedResidualBlockParams& p) {
  int64_t best = -1;
  for (int64_t w = 1; w <= min_of<int64_t>(p.out_width, kBlockPixels); ++w) {
    const int tile_w = even(p.out_width, w);
    const int halo_w = halo_of(tile_w, p.kernel_w, p.stride_w, p.dilation_w);
    const int64_t rows = kBlockHalo / halo_w - (p.kernel_h - 1) * p.dilation_h - 1;
    if (tile_w != w || rows < 0) continue;
    const int64_t most = min_of<int64_t>(rows / p.stride_h + 1, kBlockPixels / tile_w);
    const int tile_h = even(p.out_height, most);
    const int64_t halo = int64_t(halo_of(tile_h, p.kernel_h, p.stride_h, p.dilation_h)) * halo_w;
    const int64_t cost = div_up<int64_t>(p.out_height, tile_h) *
                         div_up<int64_t>(p.out_width, tile_w) *
                         (div_up<int64_t>(halo, 32) * 32 + kBlockPixels);
    if (best < 0 || cost < best) best = cost, p.tile_h = tile_h, p.tile_w = tile_w;
  }
  return best >= 0;
}

}  // namespace

bool complete(InvertedResidualBlockParams& p, const Device& device) {
  const bool serves = size_of(p.dtype) == 2 && p.layout == Layout::kNHWC && p.squeezed == 0 &&
                      p.in_channels % 8 == 0 && p.hidden % 8 == 0 && p.out_channels % 8 == 0 &&
                      p.out_channels <= 128 && p.pixels() > kBlockSmallMap &&
                      max_of(p.kernel_h, p.kernel_w) <= kBlockHalo &&
                      max_of(p.dilation_h, p.dilation_w) <= kBlockHalo &&
                      max_of(p.stride_h, p.stride_w) <= kBlockHalo &&
                      pack_width(p.dtype, p.input, p.residual, p.output) == 8 &&
                      shared_bytes(p, device) <= device.shared_bytes;
  return serves && choose_tile(p);
}

Launch plan(const InvertedResidualBlockParams& p, const Device& device) {
  const bool plain = p.kernel_h == p.kernel_w && p.stride_h == p.stride_w && p.dilation_h == 1 &&
                     p.dilation_w == 1 && p.stride_h <= 2;
  const bool has_tile =
      plain && (p.kernel_h == 3 || (device.compiles && p.kernel_h <= 7 && p.kernel_h > 1));
  Launch launch{};
  launch.kernel = Kernel::inverted_residual_fused;
  launch.threads = kBlockThreads;
  launch.shared_bytes = shared_bytes(p, device);
  launch.blocks =
      p.batch * div_up<int64_t>(p.out_height, p.tile_h) * div_up<int64_t>(p.out_width, p.tile_w);
  return with_arguments(launch, p.dtype, has_tile ? p.kernel_h : 0, has_tile ? p.stride_h : 0,
                        outs_of(p, device), known(p.in_channels, device), known(p.hidden, device),
                        known(p.out_channels, device));
}

}  // namespace fastconv::cuda
