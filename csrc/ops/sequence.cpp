// fastconv::sequence: several calls in one, which share one call of torch's pool.
//
// A line of `calls` is a call: the name of an op and its arguments in the order of the schema, with
// a space between. i3 is the fourth of `inputs`, o3 what the fourth call gave, - is None, and 2,1 a
// list of ints: "inverted_residual o0 i3 i4 i5 i6 i7 i8 - - - - 2,2 1,1,1,1 relu6 false - sigmoid".
// The result of each call is written into the tensor of `out` at its place, but where the line
// begins with ~: only the next call reads that result, and its tensor may be left as it was.
#include <string_view>
#include <unordered_map>
#include <utility>

#include "../kernels/cpu/registry.h"
#include "queued.h"

namespace fastconv::ops {

namespace {

using Ints = std::vector<int64_t>;

constexpr const char* kOp = "sequence";

enum class Kind : int8_t { kInput, kResult, kList, kWord, kNone };

struct Argument {
  std::string text;
  Kind kind;
  int64_t index = 0;
  Ints ints = {};
  std::optional<Text> word = std::nullopt;
};

struct Environment {
  Queue& queue;
  const Tensors &inputs, &out;
};

// What a work's plan follows from, of a tensor.
struct Seen {
  const void* data;
  Tensor::ScalarType dtype;
  int64_t dim, sizes[4], strides[4];

  // No op here takes a tensor of more than four dimensions.
  static Seen of(const Tensor& t) {
    Seen seen{t.const_data_ptr(), t.scalar_type(), t.dim(), {}, {}};
    std::copy_n(t.sizes().data(), seen.dim, seen.sizes);
    std::copy_n(t.strides().data(), seen.dim, seen.strides);
    return seen;
  }

  static bool is(const Tensor& t, const Seen& s) {
    return t.const_data_ptr() == s.data && t.scalar_type() == s.dtype && t.dim() == s.dim &&
           std::equal(s.sizes, s.sizes + s.dim, t.sizes().data()) &&
           std::equal(s.strides, s.strides + s.dim, t.strides().data());
  }
};

struct Call {
  void (*queue)(const Call&, const Environment&);
  std::string op;
  size_t place;  // among the calls
  bool passes;
  std::vector<Argument> arguments;
  // The work of the last time, and what it was made for, where it may serve again.
  std::shared_ptr<Work> work = nullptr;
  std::vector<Seen> seen = {};
  Isa isa = {};
  int64_t threads = 0;

  [[noreturn]] void refuse(const Argument& argument, const char* wanted) const {
    fail(kOp, ": expected ", wanted, " as argument ", &argument - arguments.data(), " of ", op,
         " (call ", place, "), got ", argument.text);
  }
};

bool is_tensor(const Argument& a) {
  return a.kind == Kind::kInput || a.kind == Kind::kResult;
}

const Tensor& tensor(const Call& call, const Environment& e, const Argument& a) {
  if (!is_tensor(a)) call.refuse(a, "a tensor");
  const bool result = a.kind == Kind::kResult;
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
    if (a.kind == Kind::kNone) return std::nullopt;
    return Read<const Tensor&>::from(call, e, a);
  }
};

template <>
struct Read<const Ints&> {
  static const Ints& from(const Call& call, const Environment&, const Argument& a) {
    if (a.kind != Kind::kList) call.refuse(a, "a list of ints");
    return a.ints;
  }
};

template <>
struct Read<const std::optional<Text>&> {
  static const std::optional<Text>& from(const Call& call, const Environment&, const Argument& a) {
    if (!a.word && a.kind != Kind::kNone) call.refuse(a, "a word");
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
  static void queue(const Call& call, const Environment& e) {
    constexpr size_t kCount = sizeof...(Arguments);
    FASTCONV_CHECK(call.arguments.size() == kCount, kOp, ": expected ", kCount, " arguments of ",
                   call.op, " (call ", call.place, "), got ", call.arguments.size());
    queue(call, e, std::make_index_sequence<kCount>{});
  }

  template <size_t... places>
  static void queue(const Call& call, const Environment& e, std::index_sequence<places...>) {
    op(e.queue, &e.out[call.place], Read<Arguments>::from(call, e, call.arguments[places])...);
  }
};

decltype(Call::queue) caller_of(const std::string& op) {
  if (op == "inverted_residual") return &Caller<&inverted_residual>::queue;
  if (op == "separable_conv2d") return &Caller<&separable_conv2d>::queue;
  if (op == "pointwise_conv2d") return &Caller<&pointwise_conv2d>::queue;
  if (op == "dense_conv2d") return &Caller<&dense_conv2d>::queue;
  if (op == "stem_conv2d") return &Caller<&stem_conv2d>::queue;
  if (op == "global_avg_pool2d") return &Caller<&global_avg_pool2d>::queue;
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
  if (text == "-") return {text, Kind::kNone};
  const std::string rest = text.substr(std::min<size_t>(1, text.size()));
  if (is_number(rest) && text[0] == 'i') return {text, Kind::kInput, std::stoll(rest)};
  if (is_number(rest) && text[0] == 'o') return {text, Kind::kResult, std::stoll(rest)};
  Argument list{text, Kind::kList};
  for (const std::string& part : split(text, ',')) {
    if (!is_number(part)) return {text, Kind::kWord, 0, {}, Text{text}};
    list.ints.push_back(std::stoll(part));
  }
  return list;
}

std::vector<Call> parse(const std::string& text) {
  std::vector<Call> calls;
  for (const std::string& line : split(text, '\n')) {
    std::vector<std::string> words = split(line, ' ');
    FASTCONV_CHECK(!words.empty(), kOp, ": expected a call in each line, got an empty one");
    const bool passes = words[0][0] == '~';
    const std::string op = words[0].substr(passes ? 1 : 0);
    Call call{caller_of(op), op, calls.size(), passes, {}};
    for (size_t i = 1; i < words.size(); ++i) call.arguments.push_back(parse_argument(words[i]));
    calls.push_back(std::move(call));
  }
  return calls;
}

// Each text is parsed once a thread. No lock: a process may fork while others compute.
std::vector<Call>& parsed(const std::string& text) {
  constexpr size_t kMost = 64;
  thread_local std::unordered_map<std::string, std::vector<Call>> known;
  const auto found = known.find(text);
  if (found != known.end()) return found->second;
  if (known.size() >= kMost) known.clear();
  return known.emplace(text, parse(text)).first->second;
}

// Calls f with each tensor that the call reads or writes, as long as f returns true.
template <class F>
bool all_tensors(const Call& call, const Environment& e, const F& f) {
  for (const Argument& a : call.arguments) {
    if (is_tensor(a) && !f(tensor(call, e, a))) return false;
  }
  return f(e.out[call.place]);
}

// A block costs 1.3 us so, and 2.4 where each call checks and plans anew (23 blocks of 8 channels
// over 4x4 pixels in one call, one core of a Zen 5; 5.2 each as a call of its own).
void queue_call(Call& call, const Environment& e) {
  const Isa isa = current_isa();
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  auto seen = call.seen.begin();
  const auto is_known = [&](const Tensor& t) { return Seen::is(t, *seen++); };
  if (call.work && call.isa == isa && call.threads == threads && all_tensors(call, e, is_known)) {
    return e.queue.add(call.work);
  }
  call.work = nullptr;
  const size_t before = e.queue.works().size();
  call.queue(call, e);
  const auto& works = e.queue.works();
  if (works.size() != before + 1) return;
  works.back()->passes = call.passes;
  if (!works.back()->copies.held.empty()) return;
  call.seen.clear(), call.isa = isa, call.threads = threads;
  all_tensors(call, e, [&](const Tensor& t) {
    call.seen.push_back(Seen::of(t));
    return true;
  });
  call.work = works.back();
}

void sequence(const Tensors& inputs, const Text& text, const Tensors& out) {
  std::vector<Call>& calls = parsed(text.value);
  FASTCONV_CHECK(calls.size() == out.size(), kOp, ": expected a tensor of out for each of ",
                 calls.size(), " calls, got ", out.size());
  Queue queue;
  for (Call& call : calls) queue_call(call, {queue, inputs, out});
  queue.run();
}

// The same with `out` by place. MobileNetV2's call has 90 tensors, each of which the dispatcher
// packs and unpacks.
Tensor run_directly(Out out, Value* values) {
  if (out) fail(kOp, ": expected out by place");
  sequence(take<Tensors>(values[0]), take<Text>(values[1]), take<Tensors>(values[2]));
  return {};
}

}  // namespace

}  // namespace fastconv::ops

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("sequence", TORCH_BOX(&fastconv::ops::sequence));
  fastconv::ops::direct_calls()["sequence"] = {&fastconv::ops::run_directly, 3, false};
}
