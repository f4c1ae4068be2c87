#include "walk.h"

#include <cstring>

#include "scratch.h"

namespace fastconv::ops {

namespace {

// Half a core's L2 cache: what a thread passes on in one go is gone from it where it is more. In
// turn with no walks, two cores of a Zen 5: MobileNetV2 at batch 1 and 16 1.03 and 1.09 times as
// fast, MobileNetV1 1.05 and 1.08. From 128 KiB on: 1.03, 1.09, 0.64 (two threads compute too many
// rows twice) and 1.08.
constexpr int64_t kPassedBytes = 512 << 10;
// What a work makes before the next one reads it. 64 KiB: -1 % on MobileNetV1 at batch 16; 256 KiB:
// the same; whole images: -3 %.
constexpr int64_t kBandBytes = 128 << 10;

int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

// Whether a work makes an image at once.
bool is_whole(const Rows& r) {
  return r.unit >= r.height;
}

class Walk final : public Work {
 public:
  explicit Walk(Works works) : Work(works[0]->variant), works_(std::move(works)) {
    const Rows& last = works_.back()->rows;
    bool whole = false;
    for (const auto& work : works_) {
      whole |= is_whole(work->rows);
      for (double one : work->cost) cost[0] += one;
    }
    unit_ = whole ? last.height : last.unit;
    units[0] = last.images * units_an_image();
    place();
  }

  void run(int, char*, int64_t begin, int64_t end) override {
    const int64_t count = units_an_image();
    while (begin < end) {
      const int64_t image = begin / count, until = std::min(end, (image + 1) * count);
      walk(image, begin % count * unit_, (until - image * count) * unit_);
      begin = until;
    }
  }

 private:
  // What a work passes to the next: some rows, from `base` on, in a buffer of the thread's.
  struct Passed {
    int64_t offset, capacity;  // bytes, rows
  };
  struct State {
    int64_t base, done;
  };
  struct Image {
    int64_t index;
    char* passed;
    std::vector<State> states;
  };

  const Rows& rows(size_t k) const { return works_[k]->rows; }
  int64_t units_an_image() const { return (works_.back()->rows.height + unit_ - 1) / unit_; }

  // Rows that a work makes at a time.
  int64_t band(size_t k) const {
    const Rows& r = rows(k);
    return std::min(std::max(kBandBytes / r.row / r.unit, int64_t{1}) * r.unit, r.height);
  }

  // Behind a work that makes images at once all that it reads is dead: two halves take turns.
  void place() {
    int64_t half = 0, ends[2] = {};
    std::vector<int64_t> halves;
    int64_t end = 0;
    for (size_t k = 0; k + 1 < works_.size(); ++k) {
      const Rows &r = rows(k), &next = rows(k + 1);
      const int64_t reach = (band(k + 1) - 1) * next.stride + next.kernel + r.unit - 1;
      passed_.push_back({end, std::min(reach, r.height)});
      halves.push_back(half);
      end += round_up(passed_.back().capacity * r.row, 64);
      ends[half] = std::max(ends[half], end);
      if (is_whole(next)) half = 1 - half, end = 0;
    }
    for (size_t k = 0; k < passed_.size(); ++k) passed_[k].offset += halves[k] * ends[0];
    passed_bytes_ = ends[0] + ends[1];
  }

  void walk(int64_t index, int64_t begin, int64_t end) {
    Image image{index, static_cast<char*>(scratch(Purpose::kPassed, passed_bytes_)), {}};
    image.states.resize(works_.size());
    for (size_t k = works_.size(); k-- > 0;) {
      const int64_t first = begin / rows(k).unit * rows(k).unit;
      image.states[k] = {first, first};
      begin = rows(k).first_read(first);
    }
    make(works_.size() - 1, image, end);
  }

  // Rows up to `end` of the output of work k.
  void make(size_t k, Image& image, int64_t end) {
    const Rows& r = rows(k);
    end = std::min(round_up(end, r.unit), r.height);
    int64_t& done = image.states[k].done;
    while (done < end) {
      const int64_t until = std::min(done + band(k), end);
      if (k > 0) make(k - 1, image, r.end_read(until));
      const char* input = static_cast<const char*>(r.input) + image.index * r.in_image;
      char* output = static_cast<char*>(r.output) + image.index * r.height * r.row;
      if (k > 0) input = first_row(k - 1, image);
      if (k + 1 < works_.size()) {
        make_room(k, image, until);
        output = first_row(k, image);
      }
      works_[k]->run_rows(input, output, done, until);
      done = until;
    }
  }

  // Where row 0 would lie: it need not be there.
  char* first_row(size_t k, const Image& image) const {
    return image.passed + passed_[k].offset - image.states[k].base * rows(k).row;
  }

  // For rows up to `end`: what the next work has read goes.
  void make_room(size_t k, Image& image, int64_t end) {
    State& state = image.states[k];
    if (end - state.base <= passed_[k].capacity) return;
    const int64_t kept = rows(k + 1).first_read(image.states[k + 1].done);
    char* to = image.passed + passed_[k].offset;
    const int64_t row = rows(k).row;
    std::memmove(to, to + (kept - state.base) * row, (state.done - kept) * row);
    state.base = kept;
  }

  Works works_;
  int64_t unit_;  // rows of the last output
  std::vector<Passed> passed_;
  int64_t passed_bytes_ = 0;
};

bool overlap(const Rows& from, const Rows& to) {
  const char* input = static_cast<const char*>(from.input);
  const char* output = static_cast<const char*>(to.output);
  return input < output + to.images * to.height * to.row &&
         output < input + from.images * from.in_image;
}

// Whether a thread had better pass what `from` makes to `to` row by row.
bool better_passed(const Work& from, const Work& to, int64_t threads) {
  const Rows &a = from.rows, &b = to.rows;
  if (!from.passes || a.images == 0 || b.images != a.images || b.input != a.output ||
      b.in_height != a.height || b.in_image != a.height * a.row) {
    return false;
  }
  const bool balanced = a.images % threads == 0 || a.images >= 8 * threads;
  if (is_whole(b) && (!balanced || a.images < 2 * threads)) return false;
  return a.images * a.height * a.row / threads > kPassedBytes;
}

}  // namespace

Works with_walks(const Works& works, int64_t threads) {
  Works result;
  for (size_t i = 0; i < works.size();) {
    size_t end = i + 1;
    while (end < works.size() && better_passed(*works[end - 1], *works[end], threads)) ++end;
    // The output may lie where the input did, of which no other work would read more by then.
    while (end > i + 1 && overlap(works[i]->rows, works[end - 1]->rows)) --end;
    result.push_back(end == i + 1
                         ? works[i]
                         : std::make_shared<Walk>(Works(works.begin() + i, works.begin() + end)));
    i = end;
  }
  return result;
}

}  // namespace fastconv::ops
