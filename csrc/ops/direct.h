// Calls of an op past torch's dispatcher, with the values that a function of Python was given.
//
// The dispatcher unpacks Python's values by the schema of an op, and packs them anew for one that
// is outside of torch: depthwise_conv2d on 1x8x8x8 took 3.9 us so, 0.65 of them for each list of
// integers, and takes 1.9 by a direct call (one thread of a Zen 5). What the dispatcher is there
// for, modes and transforms and devices, fastconv/ops/_op.py and csrc/bindings_direct.cpp rule out.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "tensor.h"

namespace fastconv::ops {

using Tensors = std::vector<Tensor>;
using Value = std::variant<std::monostate, Tensor, int64_t, double, bool, Text, Sizes, Tensors>;

constexpr size_t kMostValues = 24;

struct Direct {
  Tensor (*run)(const Tensor* out, Value* values);  // out: null where the result is new
  size_t count;                                     // of values
  bool returns = true;                              // else the result is nothing
};

// The direct call of each op that has one.
std::map<std::string, Direct>& direct_calls();

// A value as an op takes it; throws where it is of another type.
template <class T>
struct Taken {
  static T& of(Value& value) { return std::get<T>(value); }
};

template <class T>
struct Taken<std::optional<T>> {
  static std::optional<T> of(Value& value) {
    if (std::holds_alternative<std::monostate>(value)) return std::nullopt;
    return std::get<T>(value);
  }
};

template <class T>
decltype(auto) take(Value& value) {
  return Taken<std::remove_cv_t<std::remove_reference_t<T>>>::of(value);
}

template <auto op>
struct DirectCall;

template <class... Arguments, Tensor (*op)(Arguments...)>
struct DirectCall<op> {
  static constexpr size_t kArguments = sizeof...(Arguments);
  static_assert(kArguments <= kMostValues);

  static Tensor run(const Tensor* out, Value* values) {
    if (out) fail("expected no tensor to write to");
    return run(values, std::index_sequence_for<Arguments...>());
  }

 private:
  template <size_t... I>
  static Tensor run(Value* values, std::index_sequence<I...>) {
    return op(take<Arguments>(values[I])...);
  }
};

// Registers an op that makes a new tensor, and its direct call. One that fills the caller's is
// registered by impl_with_out (out.h).
template <auto op, class Library>
void impl_with_direct(Library& m, const char* name) {
  m.impl(name, TORCH_BOX(op));
  direct_calls()[name] = {&DirectCall<op>::run, DirectCall<op>::kArguments};
}

}  // namespace fastconv::ops
