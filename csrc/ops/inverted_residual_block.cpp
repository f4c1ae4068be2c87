#include "inverted_residual_block.h"

#include <limits>

#include "../kernels/cpu/registry.h"
#include "gpu.h"

namespace fastconv::ops {

namespace {

using Ints = std::vector<int64_t>;
using Optional = std::optional<Tensor>;

constexpr int64_t kMostParameter = std::numeric_limits<int32_t>::max();

int64_t out_channels_of(const Block& b) {
  const Tensor& weight = b.project_weight;
  return weight.dim() < 3 ? 0 : weight.size(is_panels(weight) ? 1 : 0);
}

// Only what a fused kernel takes for granted: where it does not, the parts check for themselves.
bool sizes_fit(const Block& b) {
  const auto is = [](const Tensor& t, std::initializer_list<int64_t> sizes) {
    return t.dim() == int64_t(sizes.size()) &&
           std::equal(sizes.begin(), sizes.end(), t.sizes().begin());
  };
  const auto in_range = [](const Ints& values, size_t count, int64_t least) {
    bool fits = values.size() == count;
    for (int64_t value : values) fits &= value >= least && value <= kMostParameter;
    return fits;
  };
  if (b.input.dim() != 4 || b.depthwise_weight.dim() != 4) return false;
  const auto is_matrix = [&](const Tensor& t, int64_t out, int64_t in) {
    if (is_panels(t)) {
      return b.input.scalar_type() == Tensor::ScalarType::Float && is(t, {1, out, in});
    }
    return is(t, {out, is_pairs(t, b.input) ? (in + 1) / 2 : in, 1, 1});
  };
  const int64_t hidden = b.depthwise_weight.size(0), out = out_channels_of(b);
  const bool hidden_fits = b.expand_weight ? is_matrix(*b.expand_weight, hidden, b.input.size(1))
                                           : hidden == b.input.size(1);
  if (b.squeeze) {
    const Tensor& reduce = b.squeeze->reduce_weight;
    const int64_t squeezed = reduce.dim() == 4 ? reduce.size(0) : 0;
    const Optional &reduce_bias = b.squeeze->reduce_bias, &expand_bias = b.squeeze->expand_bias;
    const bool fits = squeezed > 0 && is(reduce, {squeezed, hidden, 1, 1}) &&
                      is(b.squeeze->expand_weight, {hidden, squeezed, 1, 1}) &&
                      (!reduce_bias || is(*reduce_bias, {squeezed})) &&
                      (!expand_bias || is(*expand_bias, {hidden}));
    if (!fits) return false;
  }
  return hidden_fits && hidden > 0 && out > 0 && b.input.size(1) > 0 &&
         b.depthwise_weight.size(1) == 1 && is_matrix(b.project_weight, out, hidden) &&
         (!b.expand_bias || is(*b.expand_bias, {hidden})) &&
         (!b.depthwise_bias || is(*b.depthwise_bias, {hidden})) &&
         (!b.project_bias || is(*b.project_bias, {out})) && in_range(b.stride, 2, 1) &&
         in_range(b.padding, 4, 0) && in_range(b.dilation, 2, 1);
}

bool dtypes_fit(const Block& b) {
  const auto is_beside = [&](const Tensor& t) {
    return t.is_cpu() == b.input.is_cpu() && t.get_device_index() == b.input.get_device_index();
  };
  const auto fits = [&](const Tensor* t) {
    return t == nullptr || (is_beside(*t) && t->scalar_type() == b.input.scalar_type());
  };
  const auto may_be_wide = [&](const Tensor& t) {
    return fits(&t) || (is_beside(t) && is_wide(t, b.input));
  };
  const auto bias = [&](const Optional& t) { return !t || may_be_wide(*t); };
  const auto given = [&](const Optional& t) { return fits(t ? &*t : nullptr); };
  const SqueezeExcitation* s = b.squeeze;
  const bool squeeze_fits = s == nullptr || (fits(&s->reduce_weight) && given(s->reduce_bias) &&
                                             fits(&s->expand_weight) && given(s->expand_bias));
  const auto matrix = [&](const Tensor* t) { return fits(t) || is_pairs(*t, b.input); };
  return squeeze_fits && matrix(b.expand_weight) && bias(b.expand_bias) &&
         may_be_wide(b.depthwise_weight) && bias(b.depthwise_bias) && matrix(&b.project_weight) &&
         bias(b.project_bias) && fits(b.residual);
}

}  // namespace

InvertedResidualParams params_of(const Block& b) {
  InvertedResidualParams p{};
  const Tensor& x = b.input;
  p.expands = b.expand_weight != nullptr;
  p.dtype = dtype_of(x, b.op);
  p.layout = layout_of(x);
  p.has_vectors = on_gpu(x) || has_fused_blocks(p.dtype);
  if (!sizes_fit(b) || !dtypes_fit(b)) {
    p.has_vectors = false;
    return p;
  }
  p.batch = x.size(0), p.in_channels = x.size(1), p.height = x.size(2), p.width = x.size(3);
  p.hidden = b.depthwise_weight.size(0), p.out_channels = out_channels_of(b);
  p.kernel_h = b.depthwise_weight.size(2), p.kernel_w = b.depthwise_weight.size(3);
  p.stride_h = b.stride[0], p.stride_w = b.stride[1];
  p.dilation_h = b.dilation[0], p.dilation_w = b.dilation[1];
  p.pad_top = b.padding[0], p.pad_left = b.padding[1];
  const int64_t reach_h = (p.kernel_h - 1) * p.dilation_h;
  const int64_t reach_w = (p.kernel_w - 1) * p.dilation_w;
  const int64_t rows = p.height + b.padding[0] + b.padding[2] - reach_h - 1;
  const int64_t columns = p.width + b.padding[1] + b.padding[3] - reach_w - 1;
  p.out_height = rows < 0 ? 0 : rows / p.stride_h + 1;
  p.out_width = columns < 0 ? 0 : columns / p.stride_w + 1;
  const bool has_pixels = p.batch > 0 && p.height > 0 && p.width > 0 && p.pixels() > 0;
  const int64_t out[] = {p.batch, p.out_channels, p.out_height, p.out_width};
  const bool residual_fits =
      !b.residual || (b.residual->dim() == 4 &&
                      std::equal(std::begin(out), std::end(out), b.residual->sizes().begin()));
  p.has_vectors &= has_pixels && residual_fits;
  p.activation = parse_activation(b.activation);
  p.project_activation = parse_activation(b.project_activation);
  if (b.squeeze) {
    p.squeezed = b.squeeze->reduce_weight.size(0);
    p.squeeze_activation = parse_activation(b.squeeze->activation);
    p.squeeze_gate = parse_gate(b.squeeze->gate);
    p.image_a_unit = p.batch >= int64_t(torch::stable::get_num_threads());
  }
  return p;
}

}  // namespace fastconv::ops
