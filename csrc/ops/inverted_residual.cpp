// fastconv::inverted_residual and fastconv::separable_conv2d.
#include "../kernels/inverted_residual.h"

#include <limits>

#include "../kernels/cpu/registry.h"
#include "convolutions.h"
#include "gpu.h"
#include "inverted_residual_bfloat16.h"
#include "inverted_residual_gpu.h"
#include "scratch.h"
#include "stages.h"

namespace fastconv::ops {

namespace {

using Ints = std::vector<int64_t>;
using Optional = std::optional<Tensor>;
using Name = std::optional<Text>;

constexpr double kFlopsANanosecond = 100;
constexpr int64_t kMostParameter = std::numeric_limits<int32_t>::max();

// What both ops are told; expand and its bias are missing where there is no expansion.
struct Block {
  const char* op;
  const Tensor& input;
  const Tensor* expand_weight;
  const Optional& expand_bias;
  const Tensor& depthwise_weight;
  const Optional& depthwise_bias;
  const Tensor& project_weight;
  const Optional& project_bias;
  const SqueezeExcitation* squeeze;
  const Tensor* residual;
  const Ints& stride;
  const Ints& padding;
  const Ints& dilation;
  const Name& activation;
  const Name& project_activation;
};

// Only what a fused kernel takes for granted: where it does not, the parts check for themselves.
bool sizes_fit(const Block& b) {
  const auto is = [](const Tensor& t, const Sizes& sizes) {
    return t.dim() == int64_t(sizes.size()) &&
           std::equal(sizes.begin(), sizes.end(), t.sizes().begin());
  };
  const auto in_range = [](const Ints& values, size_t count, int64_t least) {
    bool fits = values.size() == count;
    for (int64_t value : values) fits &= value >= least && value <= kMostParameter;
    return fits;
  };
  if (b.input.dim() != 4 || b.depthwise_weight.dim() != 4 || b.project_weight.dim() != 4) {
    return false;
  }
  const auto is_matrix = [&](const Tensor& t, int64_t out, int64_t in) {
    return is(t, {out, is_pairs(t, b.input) ? (in + 1) / 2 : in, 1, 1});
  };
  const int64_t hidden = b.depthwise_weight.size(0), out = b.project_weight.size(0);
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
  const auto fits = [&](const Tensor* t) {
    return t == nullptr || (t->is_cpu() == b.input.is_cpu() &&
                            t->get_device_index() == b.input.get_device_index() &&
                            t->scalar_type() == b.input.scalar_type());
  };
  const auto given = [&](const Optional& t) { return fits(t ? &*t : nullptr); };
  const SqueezeExcitation* s = b.squeeze;
  const bool squeeze_fits = s == nullptr || (fits(&s->reduce_weight) && given(s->reduce_bias) &&
                                             fits(&s->expand_weight) && given(s->expand_bias));
  const auto matrix = [&](const Tensor* t) { return fits(t) || is_pairs(*t, b.input); };
  return squeeze_fits && fits(&b.input) && matrix(b.expand_weight) && given(b.expand_bias) &&
         fits(&b.depthwise_weight) && given(b.depthwise_bias) && matrix(&b.project_weight) &&
         given(b.project_bias) && fits(b.residual);
}

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
  p.hidden = b.depthwise_weight.size(0), p.out_channels = b.project_weight.size(0);
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
  const Sizes out{p.batch, p.out_channels, p.out_height, p.out_width};
  const bool residual_fits =
      !b.residual ||
      (b.residual->dim() == 4 && std::equal(out.begin(), out.end(), b.residual->sizes().begin()));
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

Tensor by_parts(Out out, const Block& b) {
  const Tensor hidden = b.expand_weight
                            ? pointwise_conv2d(nullptr, b.input, *b.expand_weight, b.expand_bias,
                                               std::nullopt, {1, 1}, b.activation)
                            : b.input;
  Tensor filtered = depthwise_conv2d(nullptr, hidden, b.depthwise_weight, b.depthwise_bias,
                                     b.stride, b.padding, b.dilation, b.activation);
  if (b.squeeze) filtered = squeeze_excitation(filtered, *b.squeeze);
  const Optional residual = b.residual ? Optional(*b.residual) : std::nullopt;
  return pointwise_conv2d(out, filtered, b.project_weight, b.project_bias, residual, {1, 1},
                          b.project_activation);
}

// A weight as the kernel reads it: rows of output channels, in its own memory or in a copy.
struct Matrix {
  InvertedResidualPackParams copy;
  int64_t row;    // elements from a row to the next
  int64_t bytes;  // of the copy, zero where none is needed

  Matrix(const Tensor& weight, int64_t out_stride, int64_t in_stride, bool any_row) {
    const int64_t out = weight.size(0), in = weight.numel() / out;
    const bool ready = (out == 1 || out_stride == 1) && in_stride >= out &&
                       (any_row || in_stride == out || in == 1);
    copy = {static_cast<const float*>(weight.const_data_ptr()),
            out,
            in,
            out_stride,
            in_stride,
            nullptr};
    row = ready ? in_stride : out;
    bytes = ready ? 0 : (weight.numel() * int64_t(sizeof(float)) + 63) / 64 * 64;
  }

  // Makes the copy, if any, at memory, and steps past it.
  const float* place(char*& memory) {
    if (bytes == 0) return copy.weight;
    copy.packed = reinterpret_cast<float*>(memory);
    memory += bytes;
    inverted_residual_kernels().pack(copy);
    return copy.packed;
  }
};

Matrix pointwise_matrix(const Tensor& weight) {
  return {weight, weight.stride(0), weight.stride(1), true};
}

// Without gaps between the rows; the inner dimension is the last or that of the input channels.
Matrix dense_matrix(const Tensor& weight, int64_t inner) {
  return {weight, weight.stride(0), weight.stride(inner), false};
}

double flops_of(const InvertedResidualShape& s) {
  const double images = double(s.batch) * s.hidden, inputs = double(s.height) * s.width;
  const double expand = s.expands ? inputs * s.in_channels : 0;
  const double taps = double(s.kernel_h) * s.kernel_w;
  return 2 * images * (expand + s.pixels() * (taps + s.out_channels));
}

const float* floats(const Optional& t) {
  return t ? static_cast<const float*>(t->const_data_ptr()) : nullptr;
}

Optional vector_of(const Optional& t) {
  return t ? Optional(dense(*t, Layout::kNCHW)) : std::nullopt;
}

Tensor run(Out out, const Block& b) {
  InvertedResidualParams p = params_of(b);
  const InvertedResidualTensors tensors{
      b.input,          b.expand_weight,  b.expand_bias,  b.depthwise_weight,
      b.depthwise_bias, b.project_weight, b.project_bias, b.residual};
  if (on_gpu(b.input)) {
    std::optional<Tensor> output;
    if (p.has_vectors) {
      output = inverted_residual_on_gpu(out, b.op, p, tensors, p.activation, p.project_activation);
    }
    return output ? *output : by_parts(out, b);
  }
  const Variant variant = inverted_residual_variant(p);
  if (!inverted_residual_is_fused(p)) {
    Tensor output = by_parts(out, b);  // which may raise
    count(variant);
    return output;
  }
  if (p.dtype == DType::kBFloat16) {
    count(variant);
    return inverted_residual_bfloat16(out, b.op, p, tensors, p.activation, p.project_activation);
  }
  const Tensor x = dense(b.input, p.layout);
  const Optional residual = b.residual ? Optional(dense(*b.residual, p.layout)) : std::nullopt;
  const Optional biases[] = {vector_of(b.expand_bias), vector_of(b.depthwise_bias),
                             vector_of(b.project_bias),
                             vector_of(b.squeeze ? b.squeeze->reduce_bias : std::nullopt),
                             vector_of(b.squeeze ? b.squeeze->expand_bias : std::nullopt)};
  const Sizes sizes{p.batch, p.out_channels, p.out_height, p.out_width};
  Tensor output = output_of(b.op, out, b.input, sizes, p.layout);
  p.input = static_cast<const float*>(x.const_data_ptr());
  p.output = static_cast<float*>(output.mutable_data_ptr());
  p.residual = floats(residual);
  p.expand_bias = floats(biases[0]), p.depthwise_bias = floats(biases[1]);
  p.project_bias = floats(biases[2]);
  p.squeeze_reduce_bias = floats(biases[3]), p.squeeze_expand_bias = floats(biases[4]);

  // A depthwise weight is one matrix (taps, hidden) where a row of the kernel follows the other.
  const bool rows_follow =
      b.depthwise_weight.stride(2) == b.depthwise_weight.stride(3) * p.kernel_w;
  const Tensor filters =
      rows_follow ? b.depthwise_weight : dense(b.depthwise_weight, Layout::kNCHW);
  std::optional<Matrix> expand, reduce, excite;
  if (p.expands) expand.emplace(pointwise_matrix(*b.expand_weight));
  Matrix depthwise = dense_matrix(filters, 3), project = pointwise_matrix(b.project_weight);
  if (b.squeeze) {
    reduce.emplace(dense_matrix(b.squeeze->reduce_weight, 1));
    excite.emplace(dense_matrix(b.squeeze->expand_weight, 1));
  }

  const InvertedResidualKernels& kernels = inverted_residual_kernels();
  const InvertedResidualPlan plan = kernels.plan(p);
  int64_t copies = depthwise.bytes + project.bytes;
  for (const auto* matrix : {&expand, &reduce, &excite}) copies += *matrix ? (*matrix)->bytes : 0;
  const int64_t shared_bytes = (plan.shared_bytes + 63) / 64 * 64;
  char* memory = nullptr;
  if (shared_bytes + copies > 0) {
    memory = static_cast<char*>(scratch(Purpose::kShared, shared_bytes + copies));
  }
  float* shared = reinterpret_cast<float*>(memory);
  memory += shared_bytes;
  p.expand_weight = expand ? expand->place(memory) : nullptr;
  p.depthwise_weight = depthwise.place(memory);
  p.project_weight = project.place(memory);
  p.expand_row = expand ? expand->row : 0, p.project_row = project.row;
  p.squeeze_reduce_weight = reduce ? reduce->place(memory) : nullptr;
  p.squeeze_expand_weight = excite ? excite->place(memory) : nullptr;

  count(variant);
  parallel_stages(plan.units, flops_of(p) / kFlopsANanosecond,
                  [&](int stage, int64_t begin, int64_t end) {
                    void* own = scratch(Purpose::kOwn, plan.scratch_bytes);
                    kernels.run(p, static_cast<InvertedResidualStage>(stage), shared,
                                static_cast<float*>(own), begin, end);
                  });
  return output;
}

// The optional arguments of a squeeze-and-excitation, which come together or not at all.
std::optional<SqueezeExcitation> squeeze_of(const char* op, const Optional& reduce_weight,
                                            const Optional& reduce_bias,
                                            const Optional& expand_weight,
                                            const Optional& expand_bias, const Name& activation,
                                            const Text& gate) {
  FASTCONV_CHECK(reduce_weight.has_value() == expand_weight.has_value(), op,
                 ": expected squeeze_reduce_weight and squeeze_expand_weight together");
  parse_gate(gate);
  if (!reduce_weight) return std::nullopt;
  return SqueezeExcitation{*reduce_weight, reduce_bias, *expand_weight,
                           expand_bias,    activation,  gate};
}

Tensor inverted_residual(Out out, const Tensor& input, const Tensor& expand_weight,
                         const Optional& expand_bias, const Tensor& depthwise_weight,
                         const Optional& depthwise_bias, const Tensor& project_weight,
                         const Optional& project_bias, const Optional& squeeze_reduce_weight,
                         const Optional& squeeze_reduce_bias, const Optional& squeeze_expand_weight,
                         const Optional& squeeze_expand_bias, const Ints& stride,
                         const Ints& padding, const Name& activation, bool residual,
                         const Name& squeeze_activation, const Text& squeeze_gate) {
  constexpr const char* kOp = "inverted_residual";
  const auto squeeze =
      squeeze_of(kOp, squeeze_reduce_weight, squeeze_reduce_bias, squeeze_expand_weight,
                 squeeze_expand_bias, squeeze_activation, squeeze_gate);
  return run(out, {kOp,
                   input,
                   &expand_weight,
                   expand_bias,
                   depthwise_weight,
                   depthwise_bias,
                   project_weight,
                   project_bias,
                   squeeze ? &*squeeze : nullptr,
                   residual ? &input : nullptr,
                   stride,
                   padding,
                   {1, 1},
                   activation,
                   std::nullopt});
}

Tensor separable_conv2d(Out out, const Tensor& input, const Tensor& depthwise_weight,
                        const Optional& depthwise_bias, const Tensor& pointwise_weight,
                        const Optional& pointwise_bias, const Optional& residual,
                        const Optional& squeeze_reduce_weight, const Optional& squeeze_reduce_bias,
                        const Optional& squeeze_expand_weight, const Optional& squeeze_expand_bias,
                        const Ints& stride, const Ints& padding, const Ints& dilation,
                        const Name& activation, const Name& pointwise_activation,
                        const Name& squeeze_activation, const Text& squeeze_gate) {
  constexpr const char* kOp = "separable_conv2d";
  const auto squeeze =
      squeeze_of(kOp, squeeze_reduce_weight, squeeze_reduce_bias, squeeze_expand_weight,
                 squeeze_expand_bias, squeeze_activation, squeeze_gate);
  return run(
      out, {kOp, input, nullptr, std::nullopt, depthwise_weight, depthwise_bias, pointwise_weight,
            pointwise_bias, squeeze ? &*squeeze : nullptr, residual ? &*residual : nullptr, stride,
            padding, dilation, activation, pointwise_activation});
}

}  // namespace

}  // namespace fastconv::ops

FASTCONV_IMPL(inverted_residual, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::inverted_residual>(m, "inverted_residual");
  fastconv::ops::impl_with_out<&fastconv::ops::separable_conv2d>(m, "separable_conv2d");
}
