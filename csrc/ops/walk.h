// Several works in one, which a thread walks through from the top of an image to its bottom: what
// one work passes to the next stays in the caches.
#pragma once

#include "queue.h"

namespace fastconv::ops {

using Works = std::vector<std::shared_ptr<Work>>;

// The works, those in one that pass more to one another than stays in the caches of so many
// threads.
Works with_walks(const Works& works, int64_t threads);

}  // namespace fastconv::ops
