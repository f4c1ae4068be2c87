// Depthwise convolution on the CPU: packs the weights and hands each call to its path.
#include "../depthwise_conv2d.h"

#include "depthwise_conv2d_paths.h"
#include "simd/transpose.h"

namespace fastconv::FASTCONV_ISA {
namespace {

// Packing moves bits, so it needs the size of an element and not its type.
template <class Bits>
void pack_bits(const DepthwiseConv2dPackParams& p) {
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t channels = s.out_channels(), taps = s.taps();
  const bool taps_first = s.layout == Layout::kNHWC;
  const int64_t channel_step = taps_first ? 1 : taps, tap_step = taps_first ? channels : 1;
  for (int64_t kh = 0; kh < s.kernel_h; ++kh) {
    for (int64_t kw = 0; kw < s.kernel_w; ++kw) {
      const Bits* source = static_cast<const Bits*>(p.weight) + kh * p.stride_h + kw * p.stride_w;
      const int64_t tap = kh * s.kernel_w + kw;
      Bits* target = static_cast<Bits*>(p.packed) + (p.flip ? taps - 1 - tap : tap) * tap_step;
      for (int64_t c = 0; c < channels; ++c) {
        target[c * channel_step] = source[c * p.stride_channel];
      }
    }
  }
}

// Taps of a channel dense in the weight, channels in what is packed: squares are transposed. A
// shuffle keeps every bit, as packing does. Flipped, us value by value / so: 672 channels of
// 5x5 5.6 / 2.1, 384 of 7x7 6.0 / 2.4 (one core of an Intel Xeon with AMX).
template <class T>
bool pack_transposed(const DepthwiseConv2dPackParams& p) {
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t channels = s.out_channels(), taps = s.taps();
  const bool dense = (s.kernel_w == 1 || p.stride_w == 1) &&
                     (s.kernel_h == 1 || p.stride_h == s.kernel_w * p.stride_w) &&
                     (s.kernel_w > 1 || s.kernel_h == 1 || p.stride_h == 1);
  if (!dense || L == 1 || s.layout != Layout::kNHWC) return false;
  const T* weight = static_cast<const T*>(p.weight);
  float* packed = static_cast<float*>(p.packed);
  for (int64_t c = 0; c < channels; c += L) {
    const int64_t n = min_of(L, channels - c);
    for (int64_t tap = 0; tap < taps; tap += L) {
      const int64_t count = min_of(L, taps - tap);
      VecF block[L];
#pragma GCC unroll 16
      for (int64_t i = 0; i < L; ++i) {
        block[i] =
            i < n ? load_partial(weight + (c + i) * p.stride_channel + tap, count) : VecF::set1(0);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int64_t i = 0; i < L; ++i) {
        if (i >= count) break;
        const int64_t row = p.flip ? taps - 1 - tap - i : tap + i;
        store_partial(packed + row * channels + c, block[i], n);
      }
    }
  }
  return true;
}

// Weights of 16 bits, channels_last, in the type that computes.
template <class T>
void pack_widened(const DepthwiseConv2dPackParams& p) {
  if (pack_transposed<T>(p)) return;
  constexpr int64_t L = kLanes<T>;
  const DepthwiseConv2dShape& s = p.shape;
  const int64_t channels = s.out_channels(), taps = s.taps();
  for (int64_t tap = 0; tap < taps; ++tap) {
    const T* source = static_cast<const T*>(p.weight) + tap / s.kernel_w * p.stride_h +
                      tap % s.kernel_w * p.stride_w;
    float* target = static_cast<float*>(p.packed) + (p.flip ? taps - 1 - tap : tap) * channels;
    for (int64_t c = 0; c < channels; c += p.stride_channel == 1 ? L : 1) {
      if (p.stride_channel == 1) {
        const int64_t n = min_of(L, channels - c);
        store_partial(target + c, load_partial(source + c, n), n);
      } else {
        target[c] = widen(source[c * p.stride_channel]);
      }
    }
  }
}

void pack_weight(const DepthwiseConv2dPackParams& p) {
  const DType dtype = p.shape.dtype;
  if (p.widen) {
    return dtype == DType::kBFloat16 ? pack_widened<bfloat16>(p) : pack_widened<float16>(p);
  }
  if (dtype == DType::kFloat32 && pack_transposed<float>(p)) return;
  switch (dtype) {
    case DType::kFloat32:
      return pack_bits<uint32_t>(p);
    case DType::kFloat64:
      return pack_bits<uint64_t>(p);
    default:
      return pack_bits<uint16_t>(p);
  }
}

void backward_weight(const DepthwiseConv2dBackwardWeightParams& p, void* scratch, int64_t begin,
                     int64_t end) {
  if (depthwise_conv2d_weight_by_strips(p.shape)) {
    return depthwise_backward_weight_strips(p, scratch, begin, end);
  }
  return p.shape.layout == Layout::kNHWC ? depthwise_backward_weight_nhwc(p, begin, end)
                                         : depthwise_backward_weight_nchw(p, begin, end);
}

}  // namespace

void depthwise_forward(const DepthwiseConv2dParams& p, void* scratch, int64_t begin, int64_t end) {
  switch (depthwise_conv2d_variant(p.shape)) {
    case Variant::depthwise_conv2d_nchw_planes:
    case Variant::depthwise_conv2d_nhwc_strips:
      return depthwise_strips(p, scratch, begin, end);
    case Variant::depthwise_conv2d_nhwc_any:
      return depthwise_nhwc_any(p, begin, end);
    case Variant::depthwise_conv2d_nchw_any:
      return depthwise_nchw_any(p, begin, end);
    default:
      return p.shape.layout == Layout::kNHWC ? depthwise_nhwc_tiles(p, begin, end)
                                             : depthwise_nchw_tiles(p, begin, end);
  }
}

void depthwise_backward_input(const DepthwiseConv2dBackwardInputParams& p, void* scratch,
                              int64_t begin, int64_t end) {
  if (depthwise_conv2d_backward_is_forward(p.shape)) {
    const DepthwiseConv2dParams transposed = {depthwise_conv2d_transposed(p.shape),
                                              p.grad_output,
                                              p.weight,
                                              nullptr,
                                              p.grad_input,
                                              Activation::kNone};
    return depthwise_forward(transposed, scratch, begin, end);
  }
  switch (depthwise_conv2d_backward_input_variant(p.shape)) {
    case Variant::depthwise_conv2d_backward_input_nchw_planes:
      return depthwise_backward_input_strips(p, scratch, begin, end);
    case Variant::depthwise_conv2d_backward_input_nhwc_k357s2:
      return depthwise_backward_input_tiles(p, begin, end);
    case Variant::depthwise_conv2d_backward_input_nchw:
      return depthwise_backward_input_nchw(p, begin, end);
    default:
      return depthwise_backward_input_nhwc(p, begin, end);
  }
}

const DepthwiseConv2dKernels depthwise_conv2d_kernels = {pack_weight, depthwise_forward,
                                                         depthwise_backward_input, backward_weight,
                                                         depthwise_sum_partials};

}  // namespace fastconv::FASTCONV_ISA
