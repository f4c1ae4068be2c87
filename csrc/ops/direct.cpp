#include "direct.h"

namespace fastconv::ops {

std::map<std::string, Direct>& direct_calls() {
  static std::map<std::string, Direct> calls;
  return calls;
}

}  // namespace fastconv::ops
