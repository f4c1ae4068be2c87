// Results written into a tensor of the caller's: pointwise_conv2d.out(..., *, Tensor(a!) out).
//
// An op that offers this takes `Out out` first and makes its result by output_of. Then def_with_out
// in place of m.def, and impl_with_out in place of m.impl, register it in both forms, and its
// direct call (direct.h).
#pragma once

#include <string>

#include "direct.h"
#include "queue.h"

namespace fastconv::ops {

using Out = const Tensor*;  // nullptr: the result is a new tensor

// The tensor that an op fills: new memory, or out, which must be as the new tensor would be.
Tensor output_of(const char* op, Out out, const Tensor& like, const Sizes& sizes, Layout layout);

// Raises where out shares memory with an input, which is read while out is written.
void check_apart(const Tensor& out, const Tensor& input);
inline void check_apart(const Tensor& out, const std::optional<Tensor>& input) {
  if (input) check_apart(out, *input);
}
template <class T>
void check_apart(const Tensor&, const T&) {}

// The forms of an op, from Op::run(out, arguments...).
template <class Op, class... Arguments>
struct FormsOf {
  static constexpr size_t kArguments = sizeof...(Arguments);
  static_assert(kArguments <= kMostValues);

  static Tensor fresh(Arguments... arguments) { return Op::run(nullptr, arguments...); }
  static Tensor into(Arguments... arguments, const Tensor& out) {
    (check_apart(out, arguments), ...);
    Op::run(&out, arguments...);
    return out;
  }
  static Tensor direct(Out out, Value* values) {
    return direct(out, values, std::index_sequence_for<Arguments...>());
  }

 private:
  template <size_t... I>
  static Tensor direct(Out out, Value* values, std::index_sequence<I...>) {
    if (out) (check_apart(*out, take<Arguments>(values[I])), ...);
    return Op::run(out, take<Arguments>(values[I])...);
  }
};

template <auto op>
struct Forms;

template <class... Arguments, Tensor (*op)(Out, Arguments...)>
struct Forms<op> : FormsOf<Forms<op>, Arguments...> {
  static Tensor run(Out out, Arguments... arguments) { return op(out, arguments...); }
};

template <class... Arguments, Tensor (*op)(Queue&, Out, Arguments...)>
struct Forms<op> : FormsOf<Forms<op>, Arguments...> {
  static Tensor run(Out out, Arguments... arguments) {
    Queue queue;
    Tensor output = op(queue, out, arguments...);
    queue.run();
    return output;
  }
};

template <auto op, class Library>
void impl_with_out(Library& m, const std::string& name) {
  m.impl(name.c_str(), TORCH_BOX(&Forms<op>::fresh));
  m.impl((name + ".out").c_str(), TORCH_BOX(&Forms<op>::into));
  direct_calls()[name] = {&Forms<op>::direct, Forms<op>::kArguments};
}

// The schema "name(arguments) -> Tensor" and "name.out(arguments, *, Tensor(a!) out) ->
// Tensor(a!)".
template <class Library>
void def_with_out(Library& m, const std::string& schema) {
  const std::string returns = ") -> Tensor";
  m.def(schema.c_str());
  std::string out = schema;
  out.replace(out.size() - returns.size(), returns.size(), ", *, Tensor(a!) out) -> Tensor(a!)");
  m.def(out.insert(out.find('('), ".out").c_str());
}

}  // namespace fastconv::ops
