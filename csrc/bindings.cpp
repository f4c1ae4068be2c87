// The module fastconv._C. Importing it registers the ops; its functions are host-side control only.
#include <pybind11/pybind11.h>

#include <string>

#include "kernels/cpu/registry.h"
#include "ops/counters.h"
#include "ops/scratch.h"

namespace py = pybind11;

namespace {

using fastconv::Isa;

constexpr const char* kIsaNames[] = {"scalar", "avx2", "avx512"};

std::string name_of(Isa isa) {
  return kIsaNames[static_cast<int>(isa)];
}

void force_isa(const std::string& name) {
  for (int i = 0; i < 3; ++i) {
    if (name != kIsaNames[i]) continue;
    if (fastconv::set_isa(static_cast<Isa>(i))) return;
    throw py::value_error("this processor cannot run instruction set '" + name +
                          "'; its best is '" + name_of(fastconv::detect_isa()) + "'");
  }
  throw py::value_error("expected instruction set 'scalar', 'avx2' or 'avx512', got '" + name +
                        "'");
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

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "fastconv's compiled kernels: importing this registers torch.ops.fastconv.*";
  m.def("isa", [] { return name_of(fastconv::current_isa()); }, "Instruction set in use.");
  m.def(
      "detected_isa", [] { return name_of(fastconv::detect_isa()); },
      "Best instruction set of this processor.");
  m.def(
      "force_isa", &force_isa, py::arg("name"),
      "Use instruction set 'scalar', 'avx2' or 'avx512'; ValueError where the processor lacks it.");
  m.def(
      "advise_huge_pages",
      [](uintptr_t memory, size_t bytes) {
        fastconv::ops::advise_huge_pages(reinterpret_cast<void*>(memory), bytes);
      },
      py::arg("memory"), py::arg("bytes"), "Asks the kernel for large pages in these bytes.");
  m.def("variants", &variants,
        "One tuple a kernel variant: (op, name, when it is chosen, times run in this process).");
}
