#include "depthwise_conv2d.h"

namespace fastconv::cuda {

namespace {

constexpr int64_t kMostSize = 1 << 30;
constexpr int64_t kMostBytes = 96 << 10;  // any device's block may have these

int floor_log2(int64_t value) {
  int log2 = 0;
  while (value >> (log2 + 1)) ++log2;
  return log2;
}

int64_t bytes_of(const WindowTiles& t, const DepthwiseConv2dShape& s) {
  return int64_t{4} * t.planes * (t.weights(s.kernel_h) + t.sources());
}

// Whether a dilated window is worth its interleaved images, whose tiles may be mostly empty: by the
// issue slots of nvcc's code for sm_90: 12 a source that is staged, 20 in channels_last, 44 a
// weight, 1.35 a tap; the kernel for any window takes eight a tap.
bool pays(const WindowTiles& t, const DepthwiseConv2dShape& s) {
  if (s.dilation_h == 1 && s.dilation_w == 1) return true;
  constexpr int64_t kSource = 20, kWeight = 44, kTenTaps = 14, kTenTapsOfAny = 80;
  const int64_t targets = t.across.divisor * t.down.divisor * kWindowRows * kWindowColumns;
  const int64_t block =
      kSource * t.sources() + kWeight * t.weights(s.kernel_h) + kTenTaps * s.taps() * targets / 10;
  const int64_t blocks = s.dilation_h * s.dilation_w * t.bands.divisor;
  return blocks * block < kTenTapsOfAny * s.taps() * s.out_height * s.out_width / 10;
}

}  // namespace

// Of channels_last tensors eight planes a block where there are threads for them: 32 bytes of a
// pixel's channels are read at once then.
WindowTiles arrange_window(const DepthwiseConv2dShape& s) {
  WindowTiles t{};
  const int64_t width = div_up(s.out_width, s.dilation_w);
  const int64_t height = div_up(s.out_height, s.dilation_h);
  const int64_t across = div_up<int64_t>(width, kWindowColumns);
  const int64_t tiles = div_up<int64_t>(height, kWindowRows);
  const bool fits = s.dtype != DType::kFloat64 && s.stride_h == 1 && s.stride_w == 1 &&
                    across <= kWindowThreads && max_of(s.height, s.width) < kMostSize &&
                    s.kernel_h < kWindowThreads && s.kernel_w < kWindowThreads &&
                    max_of(s.dilation_h, s.dilation_w) < kMostSize / kWindowThreads;
  if (!fits || s.out_height > kMostSize || s.out_channels() > kMostSize) return t;
  t.chunks = int(div_up<int64_t>(s.kernel_w, kWindowTaps));
  // Four more: then the rows of neighbours down a plane begin in different banks.
  t.pitch = make_divider(across * kWindowColumns + t.chunks * kWindowTaps + 4);
  const bool nhwc = s.layout == Layout::kNHWC;
  const int64_t planes = nhwc ? min_of<int64_t>(8, s.out_channels()) : 1;
  int64_t down = min_of(tiles, max_of<int64_t>(1, kWindowThreads / (across * planes)));
  const auto set = [&] {
    const int64_t bands = div_up(tiles, down);
    t.down = make_divider(down = div_up(tiles, bands));
    t.bands = make_divider(bands);
    t.source_rows = int((down - 1) * kWindowRows + kWindowRows - 1 + s.kernel_h);
    const int64_t most = kWindowThreads / (across * down);
    const auto fewer = [&](int planes) { return nhwc ? planes / 2 : planes - 1; };
    t.planes = int(nhwc ? int64_t{1} << floor_log2(min_of<int64_t>(most, 32)) : most);
    while (t.planes > 1 && fewer(t.planes) >= s.out_channels()) t.planes = fewer(t.planes);
    while (t.planes > 1 && bytes_of(t, s) > kMostBytes) t.planes = fewer(t.planes);
  };
  set();
  while (down > 1 && bytes_of(t, s) > kMostBytes) down = div_up<int64_t>(down, 2), set();
  if (bytes_of(t, s) > kMostBytes) return t;
  t.across = make_divider(across);
  const int64_t groups = div_up<int64_t>(s.out_channels(), t.planes);
  t.groups = make_divider(groups);
  t.phases_across = make_divider(s.dilation_w);
  t.phases_down = make_divider(s.dilation_h);
  t.by_window_rows = make_divider(s.kernel_h);
  t.by_window_columns = make_divider(t.chunks * kWindowTaps);
  t.by_source_rows = make_divider(t.source_rows);
  t.multiplier = make_divider(s.multiplier);
  const int64_t patches = s.dilation_h * s.dilation_w * t.bands.divisor * groups * s.batch;
  if (patches < int64_t{1} << 31 && pays(t, s)) t.patches = patches;
  return t;
}

bool takes_window(const DepthwiseParams& p, const Device& device) {
  return p.window.patches > 0 && bytes_of(p.window, p.shape) <= device.shared_bytes;
}

Launch window_launch(const DepthwiseParams& p) {
  Launch launch{};
  launch.kernel = Kernel::depthwise_conv2d_window;
  launch.blocks = p.window.patches;
  launch.threads = kWindowThreads;
  launch.shared_bytes = int(bytes_of(p.window, p.shape));
  return with_arguments(launch, p.shape.dtype);
}

}  // namespace fastconv::cuda
