// The fused kernel of inverted_residual and separable_conv2d in bfloat16.
#include "../kernels/inverted_residual_bfloat16.h"

#include <functional>

#include "../kernels/cpu/registry.h"
#include "inverted_residual_block.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

using Optional = std::optional<Tensor>;

constexpr double kFlopsANanosecond = 200;

const bfloat16* data(const Tensor& t) {
  return static_cast<const bfloat16*>(t.const_data_ptr());
}

const InvertedResidualBfloat16Kernels& kernels() {
  return inverted_residual_bfloat16_kernels();
}

// A stage of copies, of what the kernels read in another order or dtype, then the kernels' two.
class Bfloat16Work final : public Work {
 public:
  Bfloat16Work(const Block& b, const InvertedResidualParams& params, const Tensor& output)
      : Work(inverted_residual_variant(params)) {
    static_cast<InvertedResidualShape&>(p_) = params;
    p_.activation = params.activation, p_.project_activation = params.project_activation;
    p_.input = static_cast<const bfloat16*>(copies.read(b.input, p_.layout));
    if (b.residual) p_.residual = static_cast<const bfloat16*>(copies.read(*b.residual, p_.layout));
    p_.output = static_cast<bfloat16*>(output.mutable_data_ptr());
    plan_ = kernels().plan(p_);
    shared_bytes = align(plan_.hidden_bytes);
    if (b.expand_weight) pairs(*b.expand_weight, b.input, p_.expand_weight, p_.expand_row);
    pairs(b.project_weight, b.input, p_.project_weight, p_.project_row);
    vector(b.expand_bias, p_.expand_bias);
    vector(b.depthwise_bias, p_.depthwise_bias);
    vector(b.project_bias, p_.project_bias);
    filters(b.depthwise_weight);
    units[0] = copying_.empty() ? 0 : 1, units[1] = plan_.hide_units, units[2] = plan_.units;
    const double taps = double(p_.kernel_h) * p_.kernel_w, images = double(p_.batch) * p_.hidden;
    const double hide =
        images * (double(p_.expands) * p_.height * p_.width * p_.in_channels + p_.pixels() * taps);
    const double project = images * p_.pixels() * p_.out_channels;
    cost[plan_.hide_units > 0 ? 1 : 2] = 2 * hide / kFlopsANanosecond;
    cost[2] += 2 * project / kFlopsANanosecond;
    set_rows();
  }

  void run(int stage, char* shared, int64_t begin, int64_t end) override {
    if (stage == 0) {
      for (const auto& copy : copying_) copy(shared);
      return;
    }
    auto* hidden = reinterpret_cast<bfloat16*>(shared);
    auto* own = static_cast<bfloat16*>(scratch(Purpose::kOwn, plan_.scratch_bytes));
    if (stage == 1) return kernels().hide(p_, hidden, own, begin, end);
    kernels().run(p_, hidden, own, begin, end);
  }

  void run_rows(const void* input, void* output, int64_t begin, int64_t end) override {
    InvertedResidualBfloat16Params p = p_;
    p.batch = 1;
    p.input = static_cast<const bfloat16*>(input), p.output = static_cast<bfloat16*>(output);
    if (p.residual) p.residual = p.input;
    auto* own = static_cast<bfloat16*>(scratch(Purpose::kOwn, plan_.scratch_bytes));
    kernels().run(p, nullptr, own, begin / plan_.unit_rows,
                  (end + plan_.unit_rows - 1) / plan_.unit_rows);
  }

 private:
  // As those of float32.
  void set_rows() {
    const bool other_residual = p_.residual && p_.residual != p_.input;
    if (units[0] > 0 || plan_.unit_rows == 0 || other_residual) return;
    if (p_.pixels() <= kInvertedResidualSmallMap) return;
    const int64_t bytes = sizeof(bfloat16);
    rows.images = p_.batch;
    rows.input = p_.input, rows.in_image = p_.in_channels * p_.height * p_.width * bytes;
    rows.output = p_.output, rows.row = p_.out_width * p_.out_channels * bytes;
    rows.in_height = p_.height, rows.height = p_.out_height;
    rows.kernel = p_.kernel_h, rows.stride = p_.stride_h, rows.pad_top = p_.pad_top;
    // Rows of hidden channels are kept from band to band.
    rows.unit = p_.expands ? p_.out_height : plan_.unit_rows;
  }

  static bool is_wide(const Tensor& t) {
    return t.scalar_type() == torch::headeronly::ScalarType::Float;
  }

  static int64_t align(int64_t bytes) { return (bytes + 63) / 64 * 64; }

  // To be done in the first stage: memory of so many bytes, filled, and told to where it is read.
  template <class T, class Fill>
  void copy(int64_t bytes, const T*& place, const Fill& fill) {
    const int64_t at = shared_bytes;
    shared_bytes += align(bytes);
    copying_.push_back([&place, at, fill](char* shared) {
      fill(shared + at);
      place = reinterpret_cast<const T*>(shared + at);
    });
  }

  // A 1x1 weight in pairs: as it came, or packed for this call.
  void pairs(const Tensor& weight, const Tensor& input, const bfloat16*& place, int64_t& row) {
    const int64_t out = weight.size(0), in = weight.size(1);
    const int64_t out_stride = weight.stride(0), in_stride = weight.stride(1);
    const bfloat16* from = data(weight);
    if (is_pairs(weight, input)) {
      place = from, row = in_stride;
      return;
    }
    row = out;
    copy((in + 1) / 2 * out * int64_t(sizeof(uint32_t)), place, [=](char* to) {
      kernels().pack(from, out, in, out_stride, in_stride, reinterpret_cast<uint32_t*>(to));
    });
  }

  void vector(const Optional& t, const float*& place) {
    if (!t) return;
    if (is_wide(*t)) {
      place = static_cast<const float*>(copies.read(t));
      return;
    }
    const int64_t count = t->numel(), stride = t->stride(0);
    const bfloat16* from = data(*t);
    copy(count * int64_t(sizeof(float)), place, [=](char* to) {
      kernels().widen(from, 1, count, 0, stride, reinterpret_cast<float*>(to));
    });
  }

  // (taps, channels)
  void filters(const Tensor& weight) {
    const int64_t channels = weight.size(0), height = weight.size(2), width = weight.size(3);
    const int64_t of_channel = weight.stride(0), of_row = weight.stride(2);
    const int64_t of_column = weight.stride(3), bytes = weight.numel() * int64_t(sizeof(float));
    if (is_wide(weight)) {
      const auto* wide = static_cast<const float*>(weight.const_data_ptr());
      if (of_channel == 1 && of_column == channels && of_row == width * channels) {
        p_.depthwise_weight = wide;
        return;
      }
      copy(bytes, p_.depthwise_weight, [=](char* to) {
        auto* packed = reinterpret_cast<float*>(to);
        for (int64_t tap = 0; tap < height * width; ++tap, packed += channels) {
          const float* at = wide + tap / width * of_row + tap % width * of_column;
          for (int64_t c = 0; c < channels; ++c) packed[c] = at[c * of_channel];
        }
      });
      return;
    }
    const bfloat16* from = data(weight);
    copy(bytes, p_.depthwise_weight, [=](char* to) {
      for (int64_t h = 0; h < height; ++h) {
        kernels().widen(from + h * of_row, width, channels, of_column, of_channel,
                        reinterpret_cast<float*>(to) + h * width * channels);
      }
    });
  }

  InvertedResidualBfloat16Params p_{};
  InvertedResidualBfloat16Plan plan_;
  std::vector<std::function<void(char* shared)>> copying_;
};

}  // namespace

std::shared_ptr<Work> bfloat16_work(const Block& b, const InvertedResidualParams& p,
                                    const Tensor& output) {
  return std::make_shared<Bfloat16Work>(b, p, output);
}

}  // namespace fastconv::ops
