// The module fastconv._C. Importing it registers the ops; its functions are host-side control only.
#include <pybind11/pybind11.h>

#include <iterator>
#include <string>

#include "kernels/cpu/registry.h"
#include "ops/counters.h"
#include "ops/kept_memory.h"
#include "ops/probe.h"
#include "ops/scratch.h"

namespace py = pybind11;

namespace fastconv {
void define_direct(py::module_& m);
void define_gpu(py::module_ m);
}  // namespace fastconv

namespace {

using fastconv::Isa;

constexpr const char* kIsaNames[] = {"scalar",      "avx2", "avx512",
                                     "avx512_bf16", "amx",  "amx_emulated"};

std::string name_of(Isa isa) {
  return kIsaNames[static_cast<int>(isa)];
}

py::list isas() {
  py::list names;
  for (int i = 0; i < int(std::size(kIsaNames)); ++i) {
    if (fastconv::supports(static_cast<Isa>(i))) names.append(kIsaNames[i]);
  }
  return names;
}

void force_isa(const std::string& name) {
  for (int i = 0; i < int(std::size(kIsaNames)); ++i) {
    if (name != kIsaNames[i]) continue;
    if (fastconv::set_isa(static_cast<Isa>(i))) return;
    throw py::value_error("this processor cannot run instruction set '" + name +
                          "'; its best is '" + name_of(fastconv::detect_isa()) + "'");
  }
  std::string names;
  for (const char* known : kIsaNames) names += std::string(names.empty() ? "" : ", ") + known;
  throw py::value_error("expected an instruction set of " + names + ", got '" + name + "'");
}

struct Row {
  const char* op;
  const char* name;
  const char* when;
};

constexpr Row kRows[] = {
#define FASTCONV_VARIANT(op, name, when) {#op, #name, when},
#include "kernels/variants.def"
#undef FASTCONV_VARIANT
};

py::list variants() {
  py::list rows;
  int index = 0;
  for (const Row& row : kRows) {
    const auto count = fastconv::ops::times_run(static_cast<fastconv::Variant>(index++));
    rows.append(py::make_tuple(row.op, row.name, row.when, count));
  }
  return rows;
}

// Dense float32 memory of a buffer, such as the array of a tensor.
struct Floats {
  float* data;
  int64_t count;
};

Floats floats(const py::buffer& buffer, bool writable) {
  const py::buffer_info info = buffer.request(writable);
  if (info.format != py::format_descriptor<float>::format() || info.ndim != 1 ||
      info.strides[0] != sizeof(float)) {
    throw py::type_error("expected a dense one-dimensional buffer of float32");
  }
  return {static_cast<float*>(info.ptr), info.size};
}

using Copy = void (*)(const float*, float*, int64_t);

template <Copy kCopy>
void copy(const py::buffer& from, const py::buffer& to) {
  const Floats source = floats(from, false), target = floats(to, true);
  if (source.count != target.count) throw py::value_error("expected buffers of one length");
  if (reinterpret_cast<uintptr_t>(target.data) % 64 != 0) {
    throw py::value_error("expected a target aligned to 64 bytes");
  }
  const py::gil_scoped_release released;
  kCopy(source.data, target.data, source.count);
}

// One channels_last image of `size` x `size` pixels, padded by half a kernel.
void depthwise_conv2d(const py::buffer& input, const py::buffer& weight, const py::buffer& bias,
                      const py::buffer& output, int64_t size, int64_t kernel, int64_t stride,
                      int64_t rounds) {
  const Floats x = floats(input, false), w = floats(weight, false), b = floats(bias, false);
  const Floats y = floats(output, true);
  fastconv::DepthwiseConv2dParams p{};
  fastconv::DepthwiseConv2dShape& s = p.shape;
  s.batch = 1, s.channels = b.count, s.multiplier = 1;
  s.height = s.width = size, s.kernel_h = s.kernel_w = kernel;
  s.stride_h = s.stride_w = stride, s.dilation_h = s.dilation_w = 1;
  s.pad_top = s.pad_left = kernel / 2;
  s.layout = fastconv::Layout::kNHWC, s.dtype = fastconv::DType::kFloat32;
  s.has_vectors = fastconv::has_vectors();
  if (size < 1 || kernel < 1 || stride < 1) throw py::value_error("expected positive sizes");
  s.out_height = s.out_width = (size + kernel / 2 * 2 - kernel) / stride + 1;
  if (x.count != s.channels * size * size || w.count != s.channels * s.taps() ||
      y.count != s.channels * s.out_height * s.out_width) {
    throw py::value_error("expected buffers of the sizes of this convolution");
  }
  p.input = x.data, p.weight = w.data, p.bias = b.data, p.output = y.data;
  const py::gil_scoped_release released;
  fastconv::ops::probe_depthwise_conv2d(p, rounds);
}

void define_probe(py::module_ m) {
  m.def("multiply_add", &fastconv::ops::probe_multiply_add, py::arg("rounds"),
        py::arg("bfloat16") = false, py::call_guard<py::gil_scoped_release>(),
        "Multiply-adds in registers on every thread; the floating point operations done.");
  m.def("multiply_add_loading", &fastconv::ops::probe_multiply_add_loading, py::arg("rounds"),
        py::call_guard<py::gil_scoped_release>(),
        "The same in float32, half of them with a factor from the L1 cache.");
  m.def(
      "read",
      [](const py::buffer& data, int64_t rounds) {
        const Floats source = floats(data, false);
        const py::gil_scoped_release released;
        fastconv::ops::probe_read(source.data, source.count, rounds);
      },
      py::arg("data"), py::arg("rounds"), "Reads a float32 buffer so many times.");
  m.def("copy", &copy<fastconv::ops::probe_copy>, py::arg("source"), py::arg("target"),
        "Copies a float32 buffer by ordinary stores.");
  m.def("stream_copy", &copy<fastconv::ops::probe_stream_copy>, py::arg("source"),
        py::arg("target"), "Copies a float32 buffer by stores past the caches.");
  m.def("depthwise_conv2d", &depthwise_conv2d, py::arg("input"), py::arg("weight"), py::arg("bias"),
        py::arg("output"), py::arg("size"), py::arg("kernel"), py::arg("stride"), py::arg("rounds"),
        "The kernel of a channels_last depthwise_conv2d so many times, on every thread at once.");
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "fastconv's compiled kernels: importing this registers torch.ops.fastconv.*";
  m.def("isa", [] { return name_of(fastconv::current_isa()); }, "Instruction set in use.");
  m.def("isas", &isas, "Instruction sets that this build has and this processor runs.");
  m.def(
      "detected_isa", [] { return name_of(fastconv::detect_isa()); },
      "Best instruction set of this processor.");
  m.def("force_isa", &force_isa, py::arg("name"),
        "Use this instruction set, such as 'avx2'; ValueError where the processor lacks it.");
  m.def(
      "advise_huge_pages",
      [](uintptr_t memory, size_t bytes) {
        fastconv::ops::advise_huge_pages(reinterpret_cast<void*>(memory), bytes);
      },
      py::arg("memory"), py::arg("bytes"), "Asks the kernel for large pages in these bytes.");
  m.def(
      "keeping_memory",
      [](const py::function& function, const py::args& arguments) {
        const fastconv::ops::KeepsMemory keeps;
        return function(*arguments);
      },
      py::arg("function"), "function(*arguments), whose large results lie in kept memory.");
  m.def(
      "kept_bytes",
      [] {
        const auto bytes = fastconv::ops::kept_bytes();
        return py::make_tuple(bytes.in_use, bytes.kept, bytes.most);
      },
      "Bytes of kept memory: in use, waiting, and the most that were in use at once.");
  m.def("release_memory", &fastconv::ops::release_kept,
        "Gives kept memory that waits for the next step back to the system.");
  m.def("variants", &variants,
        "One tuple a kernel variant: (op, name, when it is chosen, times run in this process).");
  fastconv::define_direct(m);
  fastconv::define_gpu(m.def_submodule("gpu", "The CUDA kernels and the ways in to them."));
  define_probe(m.def_submodule("probe", "Loops that reach what this processor can do."));
}
