// The fused kernel of inverted_residual and separable_conv2d in bfloat16.
#include "../kernels/inverted_residual_bfloat16.h"

#include "../kernels/cpu/registry.h"
#include "inverted_residual_block.h"
#include "scratch.h"

namespace fastconv::ops {

namespace {

using Optional = std::optional<Tensor>;

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

const float* vector(Arena& arena, const Optional& t) {
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

// A stage of copies, of what the kernels read in another order or dtype, then the kernels' two.
class Bfloat16Work final : public Work {
 public:
  Bfloat16Work(const Block& b, const InvertedResidualParams& params, const Tensor& input,
               const Optional& residual, const Tensor& output)
      : input_(input),
        residual_(residual),
        output_(output),
        depthwise_weight_(b.depthwise_weight),
        project_weight_(b.project_weight),
        expand_weight_(b.expand_weight ? Optional(*b.expand_weight) : std::nullopt),
        expand_bias_(b.expand_bias),
        depthwise_bias_(b.depthwise_bias),
        project_bias_(b.project_bias) {
    static_cast<InvertedResidualShape&>(p_) = params;
    p_.activation = params.activation, p_.project_activation = params.project_activation;
    p_.input = data(input_);
    p_.residual = residual_ ? data(*residual_) : nullptr;
    p_.output = static_cast<bfloat16*>(output_.mutable_data_ptr());
    plan_ = kernels().plan(p_);
    Arena arena;
    place(arena);
    shared_bytes = arena.bytes;
    units[0] = 1, units[1] = plan_.hide_units, units[2] = plan_.units;
    const double taps = double(p_.kernel_h) * p_.kernel_w, images = double(p_.batch) * p_.hidden;
    const double hide =
        images * (double(p_.expands) * p_.height * p_.width * p_.in_channels + p_.pixels() * taps);
    const double project = images * p_.pixels() * p_.out_channels;
    cost[plan_.hide_units > 0 ? 1 : 2] = 2 * hide / kFlopsANanosecond;
    cost[2] += 2 * project / kFlopsANanosecond;
  }

  void run(int stage, char* shared, int64_t begin, int64_t end) override {
    Arena arena{shared};
    if (stage == 0) return place(arena);
    auto* hidden = reinterpret_cast<bfloat16*>(shared);
    auto* own = static_cast<bfloat16*>(scratch(Purpose::kOwn, plan_.scratch_bytes));
    if (stage == 1) return kernels().hide(p_, hidden, own, begin, end);
    kernels().run(p_, hidden, own, begin, end);
  }

 private:
  void place(Arena& arena) {
    arena.take<char>(plan_.hidden_bytes);
    if (p_.expands) p_.expand_weight = pairs(arena, *expand_weight_, input_, p_.expand_row);
    p_.project_weight = pairs(arena, project_weight_, input_, p_.project_row);
    p_.expand_bias = vector(arena, expand_bias_);
    p_.depthwise_bias = vector(arena, depthwise_bias_);
    p_.project_bias = vector(arena, project_bias_);
    p_.depthwise_weight = filters(arena, depthwise_weight_);
  }

  Tensor input_;
  Optional residual_;
  Tensor output_, depthwise_weight_, project_weight_;
  Optional expand_weight_, expand_bias_, depthwise_bias_, project_bias_;
  InvertedResidualBfloat16Params p_{};
  InvertedResidualBfloat16Plan plan_;
};

}  // namespace

Tensor queue_bfloat16(Queue& queue, Out out, const Block& b, const InvertedResidualParams& p) {
  const Tensor x = queue.dense(b.input, p.layout);
  const Optional residual =
      b.residual ? Optional(queue.dense(*b.residual, p.layout)) : std::nullopt;
  const Sizes sizes{p.batch, p.out_channels, p.out_height, p.out_width};
  Tensor output = output_of(b.op, out, x, sizes, p.layout);
  queue.add(std::make_unique<Bfloat16Work>(b, p, x, residual, output));
  return output;
}

}  // namespace fastconv::ops
