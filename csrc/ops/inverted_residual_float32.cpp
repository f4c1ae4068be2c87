// The fused kernels of inverted_residual and separable_conv2d in float32.
#include "../kernels/cpu/registry.h"
#include "../kernels/pointwise_panels.h"
#include "inverted_residual_block.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

using Optional = std::optional<Tensor>;

constexpr double kFlopsANanosecond = 100;
constexpr size_t kMostPacks = 5;  // the weights of a block

int64_t align(int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// The stages of the kernel, and before them one that copies the weights in another order.
class Float32Work final : public Work {
 public:
  Float32Work(const Block& b, const InvertedResidualParams& params, const Tensor& output)
      : Work(inverted_residual_variant(params)), p_(params) {
    p_.input = static_cast<const float*>(copies.read(b.input, p_.layout));
    if (b.residual) p_.residual = static_cast<const float*>(copies.read(*b.residual, p_.layout));
    p_.output = static_cast<float*>(output.mutable_data_ptr());
    p_.expand_bias = vector(b.expand_bias), p_.depthwise_bias = vector(b.depthwise_bias);
    p_.project_bias = vector(b.project_bias);
    const InvertedResidualPlan plan = kernels_.plan(p_);
    std::copy_n(plan.units, int(kInvertedResidualStages), units + 1);
    own_bytes_ = plan.scratch_bytes;
    shared_bytes = align(plan.shared_bytes);

    // A depthwise weight is one matrix (taps, hidden) where a row of the kernel follows the other.
    const Tensor& taps = b.depthwise_weight;
    const bool rows_follow = taps.stride(2) == taps.stride(3) * p_.kernel_w;
    if (!rows_follow) copies.held.push_back(dense(taps, Layout::kNCHW));
    if (p_.expands) matrix(*b.expand_weight, 1, p_.expand_weight, &p_.expand_row);
    matrix(rows_follow ? taps : copies.held.back(), 3, p_.depthwise_weight);
    matrix(b.project_weight, 1, p_.project_weight, &p_.project_row);
    if (b.squeeze) {
      p_.squeeze_reduce_bias = vector(b.squeeze->reduce_bias);
      p_.squeeze_expand_bias = vector(b.squeeze->expand_bias);
      matrix(b.squeeze->reduce_weight, 1, p_.squeeze_reduce_weight);
      matrix(b.squeeze->expand_weight, 1, p_.squeeze_expand_weight);
    }
    units[0] = packs_.empty() ? 0 : 1;
    set_costs();
    set_rows(plan.unit_rows);
  }

  void run(int stage, char* shared, int64_t begin, int64_t end) override {
    if (stage == 0) return pack(shared);
    void* own = scratch(Purpose::kOwn, own_bytes_);
    kernels_.run(p_, static_cast<InvertedResidualStage>(stage - 1),
                 reinterpret_cast<float*>(shared), static_cast<float*>(own), begin, end);
  }

  void run_rows(const void* input, void* output, int64_t begin, int64_t end) override {
    InvertedResidualParams p = p_;
    p.batch = 1, p.input = static_cast<const float*>(input), p.output = static_cast<float*>(output);
    if (p.residual) p.residual = p.input;
    auto* own = static_cast<float*>(scratch(Purpose::kOwn, own_bytes_));
    kernels_.run(p, kProject, nullptr, own, begin / unit_rows_,
                 (end + unit_rows_ - 1) / unit_rows_);
  }

 private:
  struct Pack {
    InvertedResidualPackParams params;
    int64_t at;  // bytes from the beginning of the shared memory
    const float** weight;
  };

  const float* vector(const Optional& t) { return static_cast<const float*>(copies.read(t)); }

  // A weight as rows of output channels, in its own memory or in a copy. The inner dimension is
  // that of the input channels or of the taps; only where `row` is told may there be gaps, or the
  // weight be in panels.
  void matrix(const Tensor& weight, int64_t inner, const float*& rows, int64_t* row = nullptr) {
    rows = static_cast<const float*>(weight.const_data_ptr());
    if (row && is_panels(weight)) {  // a lone panel is a matrix
      const int64_t columns = weight.size(1);
      *row = packed_panel_of(0, columns).columns == columns ? columns : 0;
      return;
    }
    const int64_t out = weight.size(0), in = weight.numel() / out;
    const int64_t out_stride = weight.stride(0), in_stride = weight.stride(inner);
    const bool ready =
        (out == 1 || out_stride == 1) && in_stride >= out && (row || in_stride == out || in == 1);
    if (row) *row = ready ? in_stride : out;
    if (ready) return;
    if (packs_.empty()) packs_.reserve(kMostPacks);
    packs_.push_back({{rows, out, in, out_stride, in_stride, nullptr}, shared_bytes, &rows});
    shared_bytes += align(weight.numel() * int64_t(sizeof(float)));
  }

  void pack(char* shared) {
    for (Pack& pack : packs_) {
      pack.params.packed = reinterpret_cast<float*>(shared + pack.at);
      kernels_.pack(pack.params);
      *pack.weight = pack.params.packed;
    }
  }

  // Small maps are left out: the kernels have another way for one image of them.
  void set_rows(int64_t unit_rows) {
    const bool other_residual = p_.residual && p_.residual != p_.input;
    if (units[0] > 0 || unit_rows == 0 || other_residual) return;
    if (p_.pixels() <= kInvertedResidualSmallMap && p_.squeezed == 0) return;
    unit_rows_ = unit_rows;
    rows.images = p_.batch;
    rows.input = p_.input;
    rows.in_image = p_.in_channels * p_.height * p_.width * int64_t(sizeof(float));
    rows.output = p_.output, rows.row = p_.out_width * p_.out_channels * int64_t(sizeof(float));
    rows.in_height = p_.height, rows.height = p_.out_height;
    rows.kernel = p_.kernel_h, rows.stride = p_.stride_h, rows.pad_top = p_.pad_top;
    // Rows of hidden channels are kept from strip to strip.
    rows.unit = p_.expands ? p_.out_height : unit_rows;
  }

  void set_costs() {
    const double images = double(p_.batch) * p_.hidden, inputs = double(p_.height) * p_.width;
    const double taps = double(p_.kernel_h) * p_.kernel_w;
    const double hide = images * ((p_.expands ? inputs * p_.in_channels : 0) + p_.pixels() * taps);
    const double project = images * p_.pixels() * p_.out_channels;
    const double squeeze = images * p_.squeezed;
    // Adding parts is writing lines that another core has read: 8 ns for 16 sums.
    const double sums = double(p_.batch) * p_.pixels() * p_.out_channels;
    const double add = units[1 + kPart] > 0 ? 0.5 * sums * kFlopsANanosecond / 2 : 0;
    const double multiplied[] = {0, hide, squeeze, squeeze + images * p_.pixels(), project, add};
    static_assert(std::size(multiplied) == kInvertedResidualStages + 1 &&
                  kInvertedResidualStages < kMostStages);
    double waiting = 0;  // of stages that have no units: a later one does their part
    for (int stage = 1; stage <= kInvertedResidualStages; ++stage) {
      waiting += multiplied[stage];
      if (units[stage] == 0) continue;
      cost[stage] = 2 * waiting / kFlopsANanosecond;
      waiting = 0;
    }
  }

  const InvertedResidualKernels& kernels_ = inverted_residual_kernels();
  InvertedResidualParams p_;
  std::vector<Pack> packs_;
  int64_t own_bytes_, unit_rows_ = 0;
};

}  // namespace

std::shared_ptr<Work> float32_work(const Block& b, const InvertedResidualParams& p,
                                   const Tensor& output) {
  return std::make_shared<Float32Work>(b, p, output);
}

}  // namespace fastconv::ops
