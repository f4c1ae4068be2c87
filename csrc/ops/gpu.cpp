#include "gpu.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>
#include <atomic>
#include <map>
#include <mutex>

#include "driver.h"
#if defined(FASTCONV_WITH_CUDA)
#include "../kernels/cuda/launcher.h"
#endif

namespace fastconv::ops {

namespace {

using cuda::Device;
using cuda::Launch;

std::atomic<GpuWay> way{GpuWay::kNone};
thread_local cuda::Launcher emulator = nullptr;
thread_local Device emulated_device;
Compile nvrtc;

std::atomic<int64_t> launched[static_cast<int>(cuda::Kernel::kCount)];

std::vector<void (*)(Adapters&)>& registrations() {
  static std::vector<void (*)(Adapters&)> all;
  return all;
}

std::set<std::string>& registered() {
  static std::set<std::string> names;
  return names;
}

void register_for_gpu() {
  static Library library(Library::Kind::IMPL, "fastconv", "CUDA", __FILE__, __LINE__);
  static const bool done = [] {
    Adapters adapters(library);
    for (const auto init : registrations()) init(adapters);
    return true;
  }();
  static_cast<void>(done);
}

// torch's stream on the device, from the library that is loaded where CUDA tensors are. By its
// name: linkers that drop what nothing refers to (Ubuntu's do) leave it out of what this library
// searches.
void* current_stream(int device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const auto get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Get>(library ? dlsym(library, "aoti_torch_get_current_cuda_stream")
                                         : nullptr);
  }();
  FASTCONV_CHECK(get, "this torch has no CUDA streams");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device, &stream));
  return stream;
}

Device describe(int device) {
  enum { kMultiprocessors = 16, kMajor = 75, kMinor = 76, kSharedOptin = 97 };
  const auto attribute = [&](int which) {
    int value = 0;
    check_driver(driver().get_attribute(&value, which, device));
    return value;
  };
  return {10 * attribute(kMajor) + attribute(kMinor), attribute(kMultiprocessors),
          attribute(kSharedOptin), false};
}

void launch_by_nvrtc(const Launch& launch, const void* params, int device, void* stream) {
  using Key = std::tuple<int, cuda::Kernel, std::array<int, cuda::kMostArguments>>;
  static std::map<Key, void*> compiled;
  static std::mutex mutex;
  Key key{device, launch.kernel, {}};
  std::copy_n(launch.arguments, cuda::kMostArguments, std::get<2>(key).begin());
  void* function = nullptr;
  {
    const std::lock_guard lock(mutex);
    const auto found = compiled.find(key);
    if (found != compiled.end()) function = found->second;
  }
  if (!function) {  // outside the lock: it takes Python's, and two compilations do no harm
    function = reinterpret_cast<void*>(nvrtc(launch, device));
    const std::lock_guard lock(mutex);
    compiled[key] = function;
  }
  constexpr int kMostSharedBytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
  if (launch.shared_bytes > (48 << 10)) {
    check_driver(driver().set_function_attribute(function, kMostSharedBytes, launch.shared_bytes));
  }
  void* arguments[] = {const_cast<void*>(params)};
  check_driver(driver().launch(function, unsigned(launch.blocks), 1, 1, unsigned(launch.threads), 1,
                               1, unsigned(launch.shared_bytes), stream, arguments, nullptr));
}

}  // namespace

void Adapters::impl(const char* name, void (*boxed)(StableIValue*, uint64_t, uint64_t)) {
  library_.impl(name, boxed);
  registered().insert(name);
}

Registration::Registration(void (*init)(Adapters&)) {
  registrations().push_back(init);
}

const std::set<std::string>& ops_with_cuda_kernels() {
  return registered();
}

bool on_gpu(const Tensor& t) {
  return !t.is_cpu() || emulator != nullptr;
}

const Device& able(const Device& device) {
  constexpr int kLeast = cuda::kLeastArchitecture;
  FASTCONV_CHECK(device.architecture >= kLeast, "the CUDA kernels want a GPU of sm_", kLeast,
                 " or newer, this is sm_", device.architecture,
                 ": within fastconv.use_backend('reference') torch's own ops serve it");
  return device;
}

Device gpu_of(const Tensor& t) {
  if (t.is_cpu()) return able(emulated_device);
  static std::map<int, Device> known;
  static std::mutex mutex;
  const int device = t.get_device_index();
  const std::lock_guard lock(mutex);
  auto found = known.find(device);
  if (found == known.end()) found = known.emplace(device, describe(device)).first;
  Device result = able(found->second);
  result.compiles = way == GpuWay::kNvrtc;
  return result;
}

void launch(const Launch& launch, const void* params, const Tensor& t) {
  if (launch.blocks == 0) return;
  FASTCONV_CHECK(launch.blocks <= 0x7fffffff, "a tensor of shape ", to_string(t),
                 " is too large for one launch");
  launched[static_cast<int>(launch.kernel)].fetch_add(1, std::memory_order_relaxed);
  if (t.is_cpu()) {
    const char* error = emulator(launch, params, nullptr);
    FASTCONV_CHECK(!error, "emulated CUDA: ", error);
    return;
  }
  const int device = t.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = current_stream(device);
#if defined(FASTCONV_WITH_CUDA)
  if (way == GpuWay::kCompiled) {
    int number = 0;
    const char* error = cuda::launch_compiled(launch, params, stream, number);
    FASTCONV_CHECK(!error, "CUDA: ", error, advice(number));
    return;
  }
#endif
  launch_by_nvrtc(launch, params, device, stream);
}

int64_t times_launched(cuda::Kernel kernel) {
  return launched[static_cast<int>(kernel)].load(std::memory_order_relaxed);
}

GpuWay gpu_way() {
  return emulator ? GpuWay::kEmulated : way.load();
}

const char* built_for() {
#if defined(FASTCONV_WITH_CUDA)
  return FASTCONV_WITH_CUDA;
#else
  return "";
#endif
}

bool built_with_cuda() {
  return *built_for() != 0;
}

void use_compiled() {
  FASTCONV_CHECK(built_with_cuda(), "fastconv was built without CUDA");
  way = GpuWay::kCompiled;
  register_for_gpu();
}

void use_nvrtc(Compile compile) {
  nvrtc = std::move(compile);
  way = GpuWay::kNvrtc;
  register_for_gpu();
}

void use_emulator(cuda::Launcher launcher, Device device) {
  emulated_device = device;
  emulator = launcher;
}

void stop_emulator() {
  emulator = nullptr;
}

}  // namespace fastconv::ops
