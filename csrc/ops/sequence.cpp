// fastconv::sequence: several calls in one, which share one call of torch's pool.
//
// A line of `calls` is a call: the name of an op and its arguments in the order of the schema, with
// a space between. i3 is the fourth of `inputs`, o3 what the fourth call gave, - is None, and 2,1 a
// list of ints: "inverted_residual o0 i3 i4 i5 i6 i7 i8 - - - - 2,2 1,1,1,1 relu6 false - sigmoid".
// The result of each call is written into the tensor of `out` at its place.
#include <string_view>
#include <unordered_map>
#include <utility>

#include "queued.h"

namespace fastconv::ops {

namespace {

using Tensors = std::vector<Tensor>;
using Ints = std::vector<int64_t>;

constexpr const char* kOp = "sequence";

struct Argument {
  std::string text;
  const char* kind;  // "i", "o", "list", "word", or "none"
  int64_t index = 0;
  Ints ints = {};
  std::optional<Text> word = std::nullopt;
};

struct Environment {
  Queue& queue;
  const Tensors &inputs, &out;
};

struct Call {
  void (*run)(const Call&, const Environment&);
  std::string op;
  size_t place;  // among the calls
  std::vector<Argument> arguments;

  [[noreturn]] void refuse(const Argument& argument, const char* wanted) const {
    fail(kOp, ": expected ", wanted, " as argument ", &argument - arguments.data(), " of ", op,
         " (call ", place, "), got ", argument.text);
  }
};

bool is_none(const Argument& a) {
  return a.kind == std::string_view("none");
}

const Tensor& tensor(const Call& call, const Environment& e, const Argument& a) {
  const bool result = a.kind == std::string_view("o");
  if (!result && a.kind != std::string_view("i")) call.refuse(a, "a tensor");
  const size_t most = result ? call.place : e.inputs.size();
  if (size_t(a.index) >= most) call.refuse(a, result ? "an earlier result" : "one of the inputs");
  return (result ? e.out : e.inputs)[a.index];
}

// An argument as an op takes it.
template <class T>
struct Read;

template <>
struct Read<const Tensor&> {
  static const Tensor& from(const Call& call, const Environment& e, const Argument& a) {
    const Tensor& t = tensor(call, e, a);
    check_apart(e.out[call.place], t);
    return t;
  }
};

template <>
struct Read<const std::optional<Tensor>&> {
  static std::optional<Tensor> from(const Call& call, const Environment& e, const Argument& a) {
    if (is_none(a)) return std::nullopt;
    return Read<const Tensor&>::from(call, e, a);
  }
};

template <>
struct Read<const Ints&> {
  static const Ints& from(const Call& call, const Environment&, const Argument& a) {
    if (a.kind != std::string_view("list")) call.refuse(a, "a list of ints");
    return a.ints;
  }
};

template <>
struct Read<const std::optional<Text>&> {
  static const std::optional<Text>& from(const Call& call, const Environment&, const Argument& a) {
    if (!a.word && !is_none(a)) call.refuse(a, "a word");
    return a.word;
  }
};

template <>
struct Read<const Text&> {
  static const Text& from(const Call& call, const Environment&, const Argument& a) {
    if (!a.word) call.refuse(a, "a word");
    return *a.word;
  }
};

template <>
struct Read<bool> {
  static bool from(const Call& call, const Environment&, const Argument& a) {
    if (a.text != "true" && a.text != "false") call.refuse(a, "true or false");
    return a.text == "true";
  }
};

template <auto op>
struct Caller;

template <class... Arguments, Tensor (*op)(Queue&, Out, Arguments...)>
struct Caller<op> {
  static void run(const Call& call, const Environment& e) {
    constexpr size_t kCount = sizeof...(Arguments);
    FASTCONV_CHECK(call.arguments.size() == kCount, kOp, ": expected ", kCount, " arguments of ",
                   call.op, " (call ", call.place, "), got ", call.arguments.size());
    run(call, e, std::make_index_sequence<kCount>{});
  }

  template <size_t... places>
  static void run(const Call& call, const Environment& e, std::index_sequence<places...>) {
    op(e.queue, &e.out[call.place], Read<Arguments>::from(call, e, call.arguments[places])...);
  }
};

decltype(Call::run) caller_of(const std::string& op) {
  if (op == "inverted_residual") return &Caller<&inverted_residual>::run;
  if (op == "separable_conv2d") return &Caller<&separable_conv2d>::run;
  if (op == "pointwise_conv2d") return &Caller<&pointwise_conv2d>::run;
  if (op == "stem_conv2d") return &Caller<&stem_conv2d>::run;
  if (op == "global_avg_pool2d") return &Caller<&global_avg_pool2d>::run;
  fail(kOp, ": expected an op that can be queued, got '", op, "'");
}

std::vector<std::string> split(const std::string& text, char between) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, between);) parts.push_back(part);
  return parts;
}

// Up to nine digits, so that no number is too large.
bool is_number(std::string_view text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return !text.empty() && text.size() < 10 && std::all_of(text.begin(), text.end(), is_digit);
}

Argument parse_argument(const std::string& text) {
  if (text == "-") return {text, "none"};
  const std::string rest = text.substr(std::min<size_t>(1, text.size()));
  if (is_number(rest) && text[0] == 'i') return {text, "i", std::stoll(rest)};
  if (is_number(rest) && text[0] == 'o') return {text, "o", std::stoll(rest)};
  Argument list{text, "list"};
  for (const std::string& part : split(text, ',')) {
    if (!is_number(part)) return {text, "word", 0, {}, Text{text}};
    list.ints.push_back(std::stoll(part));
  }
  return list;
}

std::vector<Call> parse(const std::string& text) {
  std::vector<Call> calls;
  for (const std::string& line : split(text, '\n')) {
    std::vector<std::string> words = split(line, ' ');
    FASTCONV_CHECK(!words.empty(), kOp, ": expected a call in each line, got an empty one");
    Call call{caller_of(words[0]), words[0], calls.size(), {}};
    for (size_t i = 1; i < words.size(); ++i) call.arguments.push_back(parse_argument(words[i]));
    calls.push_back(std::move(call));
  }
  return calls;
}

// Each text is parsed once a thread. No lock: a process may fork while others compute.
const std::vector<Call>& parsed(const std::string& text) {
  constexpr size_t kMost = 64;
  thread_local std::unordered_map<std::string, std::vector<Call>> known;
  const auto found = known.find(text);
  if (found != known.end()) return found->second;
  if (known.size() >= kMost) known.clear();
  return known.emplace(text, parse(text)).first->second;
}

void sequence(const Tensors& inputs, const Text& text, const Tensors& out) {
  const std::vector<Call>& calls = parsed(text.value);
  FASTCONV_CHECK(calls.size() == out.size(), kOp, ": expected a tensor of out for each of ",
                 calls.size(), " calls, got ", out.size());
  Queue queue;
  for (const Call& call : calls) call.run(call, {queue, inputs, out});
  queue.run();
}

}  // namespace

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("sequence", TORCH_BOX(&fastconv::ops::sequence));
}
