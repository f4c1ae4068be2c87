#include "depthwise_conv2d.h"

namespace fastconv::cuda {

namespace {

constexpr int64_t kMostSize = 1 << 30;
constexpr int64_t kMostBytes = 96 << 10;  // any device's block may have these

int64_t bytes_of(const WindowTiles& t, const DepthwiseConv2dShape& s) {
  return int64_t{4} * t.planes * (t.weights(s.kernel_h) + t.sources());
}

}  // namespace

// Of channels_last tensors eight planes a block where there are threads for them: 32 bytes of a
// pixel's channels are read at once then.
WindowTiles arrange_window(const DepthwiseConv2dShape& s) {
  WindowTiles t{};
  const int64_t across = div_up<int64_t>(s.out_width, kWindowColumns);
  const int64_t tiles = div_up<int64_t>(s.out_height, kWindowRows);
  const bool fits = s.dtype != DType::kFloat64 && s.stride_h == 1 && s.stride_w == 1 &&
                    s.dilation_h == 1 && s.dilation_w == 1 && across <= kWindowThreads &&
                    max_of(s.height, s.width) < kMostSize && s.kernel_h < kWindowThreads &&
                    s.kernel_w < kWindowThreads;
  if (!fits || s.out_height > kMostSize || s.out_channels() > kMostSize) return t;
  t.chunks = int(div_up<int64_t>(s.kernel_w, kWindowTaps));
  // Four more: then the rows of neighbours down a plane begin in different banks.
  t.pitch = make_divider(across * kWindowColumns + t.chunks * kWindowTaps + 4);
  int64_t planes = s.layout == Layout::kNHWC ? min_of<int64_t>(8, s.out_channels()) : 1;
  int64_t down = min_of(tiles, max_of<int64_t>(1, kWindowThreads / (across * planes)));
  const auto set = [&] {
    const int64_t bands = div_up(tiles, down);
    t.down = make_divider(down = div_up(tiles, bands));
    t.bands = make_divider(bands);
    t.source_rows = int((down - 1) * kWindowRows + kWindowRows - 1 + s.kernel_h);
    t.planes = int(min_of(kWindowThreads / (across * down), s.out_channels()));
    while (t.planes > 1 && bytes_of(t, s) > kMostBytes) --t.planes;
  };
  set();
  while (down > 1 && bytes_of(t, s) > kMostBytes) down = div_up<int64_t>(down, 2), set();
  if (bytes_of(t, s) > kMostBytes) return t;
  t.across = make_divider(across);
  const int64_t groups = div_up<int64_t>(s.out_channels(), t.planes);
  t.groups = make_divider(groups);
  const int64_t patches = t.bands.divisor * groups * s.batch;
  t.patches = patches < int64_t{1} << 31 ? patches : 0;
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
