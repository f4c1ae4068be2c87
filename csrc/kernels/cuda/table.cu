#include "table.cuh"

namespace fastconv::cuda {

namespace {

bool serves(const Instance& instance, const Launch& launch) {
  if (instance.kernel != launch.kernel) return false;
  for (int i = 0; i < kMostArguments; ++i) {
    if (instance.arguments[i] != launch.arguments[i]) return false;
  }
  return true;
}

}  // namespace

const Instance* find(const Launch& launch) {
  static const Table tables[] = {
#define FASTCONV_TABLE(op) op##_table(),
      FASTCONV_CUDA_TABLES(FASTCONV_TABLE)
#undef FASTCONV_TABLE
  };
  for (const Table& table : tables) {
    for (int i = 0; i < table.count; ++i) {
      if (serves(table.instances[i], launch)) return &table.instances[i];
    }
  }
  return nullptr;
}

}  // namespace fastconv::cuda
