// fastconv::inverted_residual and fastconv::separable_conv2d on CPU tensors.
#include "../kernels/inverted_residual.h"

#include <limits>

#include "../kernels/cpu/registry.h"
#include "convolutions.h"
#include "inverted_residual_bfloat16.h"
#include "scratch.h"

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
  return hidden_fits && hidden > 0 && out > 0 && b.input.size(1) > 0 &&
         b.depthwise_weight.size(1) == 1 && is_matrix(b.project_weight, out, hidden) &&
         (!b.expand_bias || is(*b.expand_bias, {hidden})) &&
         (!b.depthwise_bias || is(*b.depthwise_bias, {hidden})) &&
         (!b.project_bias || is(*b.project_bias, {out})) && in_range(b.stride, 2, 1) &&
         in_range(b.padding, 4, 0) && in_range(b.dilation, 2, 1);
}

bool dtypes_fit(const Block& b) {
  const auto fits = [&](const Tensor* t) {
    return t == nullptr || (t->is_cpu() && t->scalar_type() == b.input.scalar_type());
  };
  const auto given = [&](const Optional& t) { return fits(t ? &*t : nullptr); };
  const auto matrix = [&](const Tensor* t) { return fits(t) || is_pairs(*t, b.input); };
  return fits(&b.input) && matrix(b.expand_weight) && given(b.expand_bias) &&
         fits(&b.depthwise_weight) && given(b.depthwise_bias) && matrix(&b.project_weight) &&
         given(b.project_bias) && fits(b.residual);
}

InvertedResidualParams params_of(const Block& b) {
  InvertedResidualParams p{};
  const Tensor& x = b.input;
  p.expands = b.expand_weight != nullptr;
  p.dtype = dtype_of(x, b.op);
  p.layout = layout_of(x);
  p.has_vectors = current_isa() != Isa::kScalar;
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
  const int64_t rows = p.height + b.padding[0] + b.padding[2] - p.kernel_h;
  const int64_t columns = p.width + b.padding[1] + b.padding[3] - p.kernel_w;
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
  return p;
}

Tensor by_parts(Out out, const Block& b) {
  const Tensor hidden = b.expand_weight
                            ? pointwise_conv2d(nullptr, b.input, *b.expand_weight, b.expand_bias,
                                               std::nullopt, {1, 1}, b.activation)
                            : b.input;
  const Tensor filtered = depthwise_conv2d(nullptr, hidden, b.depthwise_weight, b.depthwise_bias,
                                           b.stride, b.padding, b.dilation, b.activation);
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

Matrix depthwise_matrix(const Tensor& weight) {
  return {weight, weight.stride(0), weight.stride(3), false};
}

const float* floats(const Optional& t) {
  return t ? static_cast<const float*>(t->const_data_ptr()) : nullptr;
}

Optional vector_of(const Optional& t) {
  return t ? Optional(dense(*t, Layout::kNCHW)) : std::nullopt;
}

Tensor run(Out out, const Block& b) {
  InvertedResidualParams p = params_of(b);
  const Variant variant = inverted_residual_variant(p);
  if (!inverted_residual_is_fused(p)) {
    Tensor output = by_parts(out, b);  // which may raise
    count(variant);
    return output;
  }
  if (p.dtype == DType::kBFloat16) {
    count(variant);
    const InvertedResidualTensors tensors{
        b.input,          b.expand_weight,  b.expand_bias,  b.depthwise_weight,
        b.depthwise_bias, b.project_weight, b.project_bias, b.residual};
    return inverted_residual_bfloat16(out, b.op, p, tensors, p.activation, p.project_activation);
  }
  const Tensor x = dense(b.input, p.layout);
  const Optional residual = b.residual ? Optional(dense(*b.residual, p.layout)) : std::nullopt;
  const Optional biases[] = {vector_of(b.expand_bias), vector_of(b.depthwise_bias),
                             vector_of(b.project_bias)};
  const Sizes sizes{p.batch, p.out_channels, p.out_height, p.out_width};
  Tensor output = output_of(b.op, out, b.input, sizes, p.layout);
  p.input = static_cast<const float*>(x.const_data_ptr());
  p.output = static_cast<float*>(output.mutable_data_ptr());
  p.residual = floats(residual);
  p.expand_bias = floats(biases[0]), p.depthwise_bias = floats(biases[1]);
  p.project_bias = floats(biases[2]);

  // A depthwise weight is one matrix (taps, hidden) where a row of the kernel follows the other.
  const bool rows_follow =
      b.depthwise_weight.stride(2) == b.depthwise_weight.stride(3) * p.kernel_w;
  const Tensor filters =
      rows_follow ? b.depthwise_weight : dense(b.depthwise_weight, Layout::kNCHW);
  std::optional<Matrix> expand;
  if (p.expands) expand.emplace(pointwise_matrix(*b.expand_weight));
  Matrix depthwise = depthwise_matrix(filters), project = pointwise_matrix(b.project_weight);

  const InvertedResidualKernels& kernels = inverted_residual_kernels();
  const InvertedResidualPlan plan = kernels.plan(p);
  const int64_t copies = (expand ? expand->bytes : 0) + depthwise.bytes + project.bytes;
  char* shared = nullptr;
  if (plan.hidden_bytes + copies > 0) {
    shared = static_cast<char*>(scratch(Purpose::kShared, plan.hidden_bytes + copies));
  }
  float* hidden = reinterpret_cast<float*>(shared);
  char* memory = shared + plan.hidden_bytes;
  p.expand_weight = expand ? expand->place(memory) : nullptr;
  p.depthwise_weight = depthwise.place(memory);
  p.project_weight = project.place(memory);
  p.expand_row = expand ? expand->row : 0, p.project_row = project.row;

  count(variant);
  const double taps = double(p.kernel_h) * p.kernel_w, images = double(p.batch) * p.hidden;
  const double hide =
      2 * images * (double(p.expands) * p.height * p.width * p.in_channels + p.pixels() * taps);
  const double projection = 2 * images * p.pixels() * p.out_channels;
  const auto own = [&] { return static_cast<float*>(scratch(Purpose::kOwn, plan.scratch_bytes)); };
  if (plan.hide_units > 0) {
    parallel(plan.hide_units, hide / kFlopsANanosecond / plan.hide_units,
             [&](int64_t begin, int64_t end) { kernels.hide(p, hidden, own(), begin, end); });
  }
  const double flops = plan.hide_units > 0 ? projection : hide + projection;
  parallel(plan.units, flops / kFlopsANanosecond / plan.units,
           [&](int64_t begin, int64_t end) { kernels.run(p, hidden, own(), begin, end); });
  return output;
}

Tensor inverted_residual(Out out, const Tensor& input, const Tensor& expand_weight,
                         const Optional& expand_bias, const Tensor& depthwise_weight,
                         const Optional& depthwise_bias, const Tensor& project_weight,
                         const Optional& project_bias, const Ints& stride, const Ints& padding,
                         const Name& activation, bool residual) {
  return run(out, {"inverted_residual",
                   input,
                   &expand_weight,
                   expand_bias,
                   depthwise_weight,
                   depthwise_bias,
                   project_weight,
                   project_bias,
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
                        const Ints& stride, const Ints& padding, const Ints& dilation,
                        const Name& activation, const Name& pointwise_activation) {
  return run(out,
             {"separable_conv2d", input, nullptr, std::nullopt, depthwise_weight, depthwise_bias,
              pointwise_weight, pointwise_bias, residual ? &*residual : nullptr, stride, padding,
              dilation, activation, pointwise_activation});
}

}  // namespace

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  fastconv::ops::impl_with_out<&fastconv::ops::inverted_residual>(m, "inverted_residual");
  fastconv::ops::impl_with_out<&fastconv::ops::separable_conv2d>(m, "separable_conv2d");
}
