// Every variant of every kernel, one row each in the .def files beside this header: the rows feed
// the dispatch, the counters, `fastconv explain` and the test that each variant is reached.
#pragma once

namespace fastconv {

enum class Variant : int {
#define FASTCONV_VARIANT(op, name, when) op##_##name,
#include "variants.def"
#undef FASTCONV_VARIANT
  kCount
};

}  // namespace fastconv
