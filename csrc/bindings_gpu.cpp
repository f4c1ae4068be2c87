// fastconv._C.gpu: the ways in to the CUDA kernels, their table, and the launches that are planned.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "ops/driver.h"
#include "ops/gpu.h"

namespace py = pybind11;

namespace fastconv {

namespace {

using cuda::Device;
using cuda::Launch;

struct Row {
  const char *op, *name, *kernel, *when;
};

constexpr Row kRows[] = {
#define FASTCONV_CUDA_KERNEL(op, name, when) {#op, #name, #op "_" #name, when},
#include "kernels/cuda/kernels.def"
#undef FASTCONV_CUDA_KERNEL
};

const Row& row_of(const Launch& launch) {
  return kRows[static_cast<int>(launch.kernel)];
}

std::vector<int> arguments_of(const Launch& launch) {
  return {launch.arguments, launch.arguments + launch.argument_count};
}

// The template and its arguments, as C++ has them.
std::string expression_of(const Launch& launch) {
  std::string text = std::string("fastconv::cuda::") + row_of(launch).kernel + "<";
  const char* comma = "";
  for (int argument : arguments_of(launch)) {
    text += comma + std::to_string(argument);
    comma = ", ";
  }
  return text + ">";
}

py::list kernels() {
  py::list rows;
  for (size_t i = 0; i < std::size(kRows); ++i) {
    const auto launches = ops::times_launched(static_cast<cuda::Kernel>(i));
    rows.append(py::make_tuple(kRows[i].op, kRows[i].name, kRows[i].when, launches));
  }
  return rows;
}

const char* way() {
  switch (ops::gpu_way()) {
    case ops::GpuWay::kCompiled:
      return "cuda";
    case ops::GpuWay::kNvrtc:
      return "nvrtc";
    case ops::GpuWay::kEmulated:
      return "emulated";
    default:
      return nullptr;
  }
}

thread_local std::vector<Launch> recorded;

const char* record(const Launch& launch, const void*, void*) {
  recorded.push_back(launch);
  return nullptr;
}

std::vector<Launch> take_recorded() {
  return std::exchange(recorded, {});
}

void use_nvrtc(py::function compile) {
  // Leaked: the interpreter may be gone before this library's statics are.
  auto* callable = new py::function(std::move(compile));
  ops::use_nvrtc([callable](const Launch& launch, int device) {
    const py::gil_scoped_acquire gil;
    return (*callable)(launch, device).cast<uintptr_t>();
  });
}

}  // namespace

void define_gpu(py::module_ m) {
  py::class_<Launch>(m, "Launch", "A kernel launch as planned: template, arguments and grid.")
      .def_property_readonly("op", [](const Launch& launch) { return row_of(launch).op; })
      .def_property_readonly("kernel", [](const Launch& launch) { return row_of(launch).kernel; })
      .def_property_readonly("when", [](const Launch& launch) { return row_of(launch).when; })
      .def_property_readonly("arguments", &arguments_of)
      .def_property_readonly("expression", &expression_of)
      .def_readonly("blocks", &Launch::blocks)
      .def_readonly("threads", &Launch::threads)
      .def_readonly("shared_bytes", &Launch::shared_bytes)
      .def("__repr__", [](const Launch& launch) {
        return expression_of(launch) + ", " + std::to_string(launch.blocks) + " blocks of " +
               std::to_string(launch.threads) + " threads, " + std::to_string(launch.shared_bytes) +
               " bytes shared";
      });
  py::class_<Device>(m, "Device", "What a plan is made for.")
      .def(py::init<int, int, int, bool>(), py::arg("architecture") = 90,
           py::arg("multiprocessors") = 132, py::arg("shared_bytes") = 227 << 10,
           py::arg("compiles") = false)
      .def_readonly("architecture", &Device::architecture)
      .def_readonly("multiprocessors", &Device::multiprocessors);

  m.def("kernels", &kernels,
        "One tuple a CUDA kernel: (op, name, when it is chosen, launches in this process).");
  m.def("ops", &ops::ops_with_cuda_kernels,
        "The ops that have CUDA kernels, overloads too: 'pointwise_conv2d.out'.");
  m.def("way", &way, "How CUDA tensors reach the kernels: 'cuda', 'nvrtc', 'emulated' or None.");
  m.def("built_with_cuda", &ops::built_with_cuda);
  m.def("built_for", &ops::built_for,
        "The architectures that nvcc compiled for, '80 90 100'; '' without CUDA.");
  m.def("advice", &ops::advice, "What mends an error of CUDA's, by its number; '' if unknown.");
  m.def("use_compiled", &ops::use_compiled, "CUDA tensors take the kernels that nvcc compiled.");
  m.def("use_nvrtc", &use_nvrtc, py::arg("compile"),
        "CUDA tensors take kernels of compile(launch, device), which gives a CUfunction.");
  m.def(
      "use_emulator",
      [](uintptr_t launcher, const Device& device) {
        ops::use_emulator(reinterpret_cast<cuda::Launcher>(launcher), device);
      },
      py::arg("launcher"), py::arg("device"),
      "In this thread CPU tensors take the CUDA kernels as this launcher runs them, until "
      "stop_emulator.");
  m.def("stop_emulator", &ops::stop_emulator);
  m.def(
      "use_recorder", [](const Device& device) { ops::use_emulator(&record, device); },
      py::arg("device"),
      "In this thread, until stop_emulator, launches for CPU tensors are kept and not run: outputs "
      "have no values.");
  m.def("take_recorded", &take_recorded, "The launches kept since the last call.");
}

}  // namespace fastconv
