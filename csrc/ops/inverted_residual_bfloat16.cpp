#include "inverted_residual_bfloat16.h"

#include "../kernels/cpu/registry.h"
#include "../kernels/inverted_residual_bfloat16.h"
#include "convolutions.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

constexpr double kFlopsANanosecond = 200;

// Memory for copies, 64 bytes aligned, handed out in two rounds: measured, then placed.
struct Arena {
  char* memory = nullptr;
  int64_t bytes = 0;

  template <class T>
  T* take(int64_t elements) {
    T* here = memory ? reinterpret_cast<T*>(memory + bytes) : nullptr;
    bytes += (elements * int64_t(sizeof(T)) + 63) / 64 * 64;
    return here;
  }
};

const bfloat16* data(const Tensor& t) {
  return static_cast<const bfloat16*>(t.const_data_ptr());
}

const InvertedResidualBfloat16Kernels& kernels() {
  return inverted_residual_bfloat16_kernels();
}

// A 1x1 weight in pairs: as it came, or packed for this call.
const bfloat16* pairs(Arena& arena, const Tensor& weight, const Tensor& input, int64_t& row) {
  const int64_t out = weight.size(0), in = weight.size(1);
  if (is_pairs(weight, input)) {
    row = weight.stride(1);
    return data(weight);
  }
  row = out;
  auto* packed = arena.take<uint32_t>((in + 1) / 2 * out);
  if (packed) kernels().pack(data(weight), out, in, weight.stride(0), weight.stride(1), packed);
  return reinterpret_cast<const bfloat16*>(packed);
}

const float* vector(Arena& arena, const std::optional<Tensor>& t) {
  if (!t) return nullptr;
  float* wide = arena.take<float>(t->numel());
  if (wide) kernels().widen(data(*t), 1, t->numel(), 0, t->stride(0), wide);
  return wide;
}

// (taps, channels)
const float* filters(Arena& arena, const Tensor& weight) {
  const int64_t channels = weight.size(0), height = weight.size(2), width = weight.size(3);
  float* wide = arena.take<float>(weight.numel());
  for (int64_t h = 0; wide && h < height; ++h) {
    kernels().widen(data(weight) + h * weight.stride(2), width, channels, weight.stride(3),
                    weight.stride(0), wide + h * width * channels);
  }
  return wide;
}

void place(Arena& arena, const InvertedResidualTensors& t, InvertedResidualBfloat16Params& p) {
  if (p.expands) p.expand_weight = pairs(arena, *t.expand_weight, t.input, p.expand_row);
  p.project_weight = pairs(arena, t.project_weight, t.input, p.project_row);
  p.expand_bias = vector(arena, t.expand_bias);
  p.depthwise_bias = vector(arena, t.depthwise_bias);
  p.project_bias = vector(arena, t.project_bias);
  p.depthwise_weight = filters(arena, t.depthwise_weight);
}

}  // namespace

Tensor inverted_residual_bfloat16(Out out, const char* op, const InvertedResidualShape& shape,
                                  const InvertedResidualTensors& t, Activation activation,
                                  Activation project_activation) {
  InvertedResidualBfloat16Params p{};
  static_cast<InvertedResidualShape&>(p) = shape;
  p.activation = activation, p.project_activation = project_activation;
  const Tensor x = dense(t.input, p.layout);
  const auto residual = t.residual ? std::optional(dense(*t.residual, p.layout)) : std::nullopt;
  const Sizes sizes{p.batch, p.out_channels, p.out_height, p.out_width};
  Tensor output = output_of(op, out, x, sizes, p.layout);
  p.input = data(x);
  p.residual = residual ? data(*residual) : nullptr;
  p.output = static_cast<bfloat16*>(output.mutable_data_ptr());

  const InvertedResidualBfloat16Plan plan = kernels().plan(p);
  const int64_t pixels = plan.hidden_bytes / int64_t(sizeof(bfloat16));
  Arena arena;
  arena.take<bfloat16>(pixels);
  place(arena, t, p);
  arena = {static_cast<char*>(scratch(Purpose::kShared, arena.bytes)), 0};
  auto* hidden = arena.take<bfloat16>(pixels);
  place(arena, t, p);

  const double taps = double(p.kernel_h) * p.kernel_w, images = double(p.batch) * p.hidden;
  const double hide =
      2 * images * (double(p.expands) * p.height * p.width * p.in_channels + p.pixels() * taps);
  const double projection = 2 * images * p.pixels() * p.out_channels;
  const auto own = [&] {
    return static_cast<bfloat16*>(scratch(Purpose::kOwn, plan.scratch_bytes));
  };
  if (plan.hide_units > 0) {
    parallel(plan.hide_units, hide / kFlopsANanosecond / plan.hide_units,
             [&](int64_t begin, int64_t end) { kernels().hide(p, hidden, own(), begin, end); });
  }
  const double flops = plan.hide_units > 0 ? projection : hide + projection;
  parallel(plan.units, flops / kFlopsANanosecond / plan.units,
           [&](int64_t begin, int64_t end) { kernels().run(p, hidden, own(), begin, end); });
  return output;
}

}  // namespace fastconv::ops
