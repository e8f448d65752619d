// Compiled patterns against loops over their lists, and the pages that hold their code.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/pattern_jit.h"
#include "fixture.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#define FBCONV_HAS_MMAP
#endif

namespace fbconv::test {
namespace {

constexpr int64_t kLanes = 16;
constexpr float kGap = 12345;  // no result has this value

struct Lists {
  const char* name;
  int64_t rows, planes;
  double entries_per_row;
  int64_t block_planes, group_rows;
  bool x_restarts;
  int64_t masks;
  bool masked_stores;
  int64_t spots;
  int64_t reach = 20;  // of entries, to both sides
  bool inner = false;  // sums that start at nothing
};

std::vector<Lists> list_cases() {
  return {
      {"no rows", 0, 3, 0, 3, 1, false, 0, false, 3},
      {"no entries", 30, 3, 0, 3, 30, false, 0, false, 3},
      {"no entries, blocks, masked stores", 30, 9, 0, 2, 30, true, 0, true, 3},
      {"no planes", 3, 0, 0, 1, 3, false, 0, false, 2},
      {"one row, one entry", 1, 1, 1, 1, 1, false, 0, false, 1},
      {"one row", 1, 5, 40, 5, 1, false, 2, false, 4},
      {"27 rows", 27, 6, 5, 6, 27, false, 3, false, 5},
      {"28 rows", 28, 6, 5, 6, 28, false, 3, true, 5},
      {"29 rows", 29, 6, 5, 6, 29, false, 3, true, 5},
      {"57 rows", 57, 6, 5, 6, 57, false, 0, false, 2},
      {"57 sparse rows", 57, 40, .4, 40, 57, false, 2, true, 2},
      {"several chunks", 28, 200, 150, 200, 28, false, 3, false, 3},
      {"several chunks, masked stores", 28, 200, 150, 200, 28, false, 3, true, 3},
      {"several chunks of one plane", 56, 2, 90, 2, 56, false, 4, true, 3},
      {"blocks", 29, 23, 20, 7, 29, false, 2, false, 4},
      {"blocks that restart", 29, 23, 20, 7, 29, true, 2, true, 4},
      {"sparse blocks", 57, 64, .7, 8, 57, false, 1, true, 2},
      {"sparse blocks that restart", 57, 64, .7, 8, 57, true, 0, false, 2},
      {"blocks of several chunks", 28, 200, 150, 100, 28, true, 2, true, 2},
      {"groups", 60, 8, 6, 8, 10, false, 2, false, 3},
      {"uneven groups", 61, 8, 6, 8, 29, false, 2, true, 3},
      {"groups of one row", 5, 8, 6, 8, 1, false, 0, true, 3},
      {"groups and blocks", 61, 24, 12, 5, 30, true, 2, true, 3},
      {"one place under many masks", 20, 1, 9, 1, 20, false, 7, false, 3, 0},
      {"255 masks", 20, 8, 60, 8, 20, false, 255, true, 2},
      {"many spots", 12, 8, 6, 8, 12, false, 2, true, 70},
  };
}

// Lists with everything that they multiply, somewhere in memory.
struct Work {
  Lists c;
  EntryLists entries;
  int64_t x_pitch, y_pitch, value_count = 50;
  Dense x, values, bias;
  std::vector<uint16_t> masks;  // (spots, masks + 1)
  std::vector<Spot> spots;

  Work(const Lists& given, Random& random) : c(given) {
    x_pitch = c.spots * kLanes + 2 * c.reach + random() % 30;
    y_pitch = c.spots * kLanes + random() % 30;
    make_entries(random);
    x = random_dense(random, std::max<int64_t>(1, c.planes) * x_pitch + kLanes);
    values = random_dense(random, value_count);
    bias = c.inner ? Dense(c.rows) : random_dense(random, c.rows);
    masks.resize(c.spots * (c.masks + 1));
    for (uint16_t& mask : masks) mask = static_cast<uint16_t>(random());
    for (int64_t i = 0; i < c.spots; ++i) {
      // Spots of y lie in another order than those of x.
      spots.push_back(
          {c.reach + i * kLanes, (c.spots - 1 - i) * kLanes, masks.data() + i * (c.masks + 1)});
    }
  }

  Listing listing() const {
    return {&entries,     c.planes,     x_pitch, y_pitch,         c.block_planes,
            c.group_rows, c.x_restarts, c.masks, c.masked_stores, c.inner};
  }

  void make_entries(Random& random) {
    std::vector<Entry> list;
    std::vector<int32_t> ptr{0};
    for (int64_t row = 0; row < c.rows; ++row) {
      // Every third row of sparse lists is empty, and so is the first.
      const bool emptied = c.entries_per_row < 1 && row % 3 == 0;
      const int64_t count = emptied ? 0 : static_cast<int64_t>(std::ceil(c.entries_per_row));
      for (int64_t k = 0; k < count; ++k) {
        const int64_t offset = static_cast<int64_t>(random() % (2 * c.reach + 1)) - c.reach;
        list.push_back({static_cast<int32_t>(random() % c.planes), static_cast<int32_t>(offset),
                        static_cast<int32_t>(random() % value_count),
                        static_cast<int32_t>(random() % (c.masks + 1)) - 1});
      }
      ptr.push_back(static_cast<int32_t>(list.size()));
    }
    entries.resize(c.rows, static_cast<int64_t>(list.size()), false);
    std::copy(ptr.begin(), ptr.end(), entries.ptr.data());
    std::copy(list.begin(), list.end(), entries.list.data());
  }

  bool lets_through(int64_t spot, int64_t mask, int64_t lane) const {
    return mask < 0 || (masks[spot * (c.masks + 1) + mask] >> lane & 1) != 0;
  }

  // What y holds after the blocks [0, blocks): rows `y_pitch` apart, groups after each other.
  Dense expected(int64_t blocks, const Dense& from, const Dense& by, const Dense& onto) const {
    Dense y(c.rows * y_pitch, kGap);
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t spot = 0; spot < c.spots; ++spot) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          if (c.masked_stores && !lets_through(spot, c.masks, lane)) continue;
          double sum = onto[row];
          for (int32_t k = entries.ptr.data()[row]; k < entries.ptr.data()[row + 1]; ++k) {
            const Entry& e = entries.list.data()[k];
            if (e.plane / c.block_planes >= blocks || !lets_through(spot, e.mask, lane)) continue;
            sum += by[e.value] * from[e.plane * x_pitch + spots[spot].x + e.offset + lane];
          }
          y[row * y_pitch + spots[spot].y + lane] = sum;
        }
      }
    }
    return y;
  }
};

void run_block(const Work& work, const CompiledLists& compiled, int64_t block,
               const std::vector<float>& x, const std::vector<float>& values,
               const std::vector<float>& bias, std::vector<float>* y) {
  const int64_t first = work.c.x_restarts ? block * work.c.block_planes * work.x_pitch : 0;
  for (int64_t row = 0, group = 0; row < work.c.rows; row += work.c.group_rows, ++group) {
    compiled.run(compiled.group_begin(group), compiled.group_begin(group + 1), block, work.spots,
                 x.data() + first, values.data(), work.c.inner ? nullptr : bias.data(),
                 y->data() + row * work.y_pitch);
  }
}

// Each block adds its sums, so y is compared after each of them.
void check_run(const Work& work, const CompiledLists& compiled) {
  const std::vector<float> x = cast<float>(work.x), bias = cast<float>(work.bias);
  const std::vector<float> values = cast<float>(work.values);
  std::vector<float> y(work.c.rows * work.y_pitch, kGap);
  for (int64_t block = 0; block < compiled.blocks(); ++block) {
    run_block(work, compiled, block, x, values, bias, &y);
    const Dense expected = work.expected(block + 1, work.x, work.values, work.bias);
    Dense scale =
        work.expected(block + 1, absolute(work.x), absolute(work.values), absolute(work.bias));
    for (size_t i = 0; i < scale.size(); ++i) {
      if (expected[i] == kGap) scale[i] = 0;  // what is not written stays as it is
    }
    check_close<float>(Dense(y.begin(), y.end()), expected, scale,
                       std::string(work.c.name) + ", block " + std::to_string(block));
  }
}

void check_counts(const Work& work, const CompiledLists& compiled) {
  const Lists& c = work.c;
  const int64_t blocks = std::max<int64_t>(1, (c.planes + c.block_planes - 1) / c.block_planes);
  CHECK(compiled.blocks() == blocks, c.name);
  CHECK(compiled.most_group_rows() == std::min(c.rows, c.group_rows), c.name);
  CHECK(c.rows == 0 || compiled.group_begin(0) == 0, c.name);
  const int64_t groups = (c.rows + c.group_rows - 1) / c.group_rows;
  CHECK(c.rows == 0 || compiled.group_begin(groups) == compiled.row_blocks(), c.name);
  CHECK((c.rows == 0) == (compiled.row_blocks() == 0), c.name);
}

void test_lists() {
  Random random(51);
  for (Lists c : list_cases()) {
    for (int round = 0; round < 4; ++round) {
      c.inner = round % 2 != 0;
      Work work(c, random);
      CompiledLists compiled;
      CHECK(compiled.compile(work.listing()) && compiled.ready(), c.name);
      if (!compiled.ready()) continue;
      check_counts(work, compiled);
      check_run(work, compiled);
      // The code holds no operand: others give other results.
      work.x = random_dense(random, static_cast<int64_t>(work.x.size()));
      work.values = random_dense(random, work.value_count);
      if (!c.inner) work.bias = random_dense(random, c.rows);
      for (uint16_t& mask : work.masks) mask = static_cast<uint16_t>(random());
      check_run(work, compiled);
    }
  }
}

// Offsets of more than 31 bits, of the source and of the sums.
void test_unreachable() {
  Random random(52);
  const Lists c{"far apart", 3, 4, 5, 4, 3, false, 0, false, 1};
  const int64_t far = int64_t{1} << 29;
  for (const bool source : {false, true}) {
    const Work work(c, random);
    Listing listing = work.listing();
    (source ? listing.x_pitch : listing.y_pitch) = far;
    CompiledLists compiled;
    CHECK(!compiled.compile(listing) && !compiled.ready(), "offsets do not fit");
  }
}

void test_switched_off() {
  Random random(53);
  const Work work({"switched off", 3, 4, 5, 4, 3, false, 0, false, 1}, random);
  CompiledLists compiled;
  CHECK(!compiled.compile(work.listing()) && !compiled.ready(), "FBCONV_JIT=0");
}

#ifdef FBCONV_HAS_MMAP

// A page between two that must not be touched.
class GuardedPage {
 public:
  GuardedPage() : size_(sysconf(_SC_PAGESIZE)) {
    void* all = mmap(nullptr, 3 * size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    begin_ = static_cast<char*>(all) + size_;
    if (all == MAP_FAILED || mprotect(begin_, size_, PROT_READ | PROT_WRITE) != 0) std::abort();
  }
  GuardedPage(const GuardedPage&) = delete;
  ~GuardedPage() { munmap(begin_ - size_, 3 * size_); }

  float* begin() const { return reinterpret_cast<float*>(begin_); }
  float* end() const { return reinterpret_cast<float*>(begin_ + size_); }

 private:
  int64_t size_;
  char* begin_;
};

// Sources and sums of `lanes` elements at either end of what may be touched.
void test_masked_lanes_are_not_touched() {
  EntryLists entries;
  entries.resize(1, 2, true);
  entries.ptr.data()[0] = 0;
  entries.ptr.data()[1] = 2;
  // Entries of two blocks: the second one loads the sums that the first has stored.
  entries.list.data()[0] = {0, 0, 0, 0};
  entries.list.data()[1] = {1, 0, 1, 0};
  CompiledLists compiled;
  CHECK(compiled.compile({&entries, 2, 0, 0, 1, 1, true, 1, true}), "compiled");
  if (!compiled.ready()) return;
  const GuardedPage x, y;
  const float values[] = {2, 3}, bias[] = {1};
  for (int64_t lanes = 0; lanes <= kLanes; ++lanes) {
    for (const bool at_end : {false, true}) {
      const int64_t low = (int64_t{1} << lanes) - 1;
      const uint16_t mask = static_cast<uint16_t>(at_end ? low : low << (kLanes - lanes));
      const uint16_t masks[] = {mask, mask};
      const int64_t first = at_end ? 0 : kLanes - lanes;
      float* from = at_end ? x.end() - lanes : x.begin() - first;
      float* to = at_end ? y.end() - lanes : y.begin() - first;
      for (int64_t i = first; i < first + lanes; ++i) {
        from[i] = static_cast<float>(i);
        to[i] = kGap;
      }
      const std::vector<Spot> spots{{0, 0, masks}};
      for (int64_t block = 0; block < 2; ++block) {
        compiled.run(0, 1, block, spots, from, values, bias, to);
        for (int64_t i = first; i < first + lanes; ++i) {
          CHECK(to[i] == 1 + (block == 0 ? 2 : 5) * static_cast<float>(i), std::to_string(lanes));
        }
      }
    }
  }
}

// The permissions of the mapping that holds an address, empty if there is none; and whether any
// mapping of this process is writable and executable.
struct Permissions {
  std::string here;
  bool any_writable_code = false;
};
Permissions permissions(const void* address) {
  Permissions found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    uintptr_t begin, end;
    char dash;
    std::string flags;
    words >> std::hex >> begin >> dash >> end >> flags;
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    if (at >= begin && at < end) found.here = flags;
    found.any_writable_code |=
        flags.find('w') != std::string::npos && flags.find('x') != std::string::npos;
  }
  return found;
}

// mov eax, number; ret
std::vector<uint8_t> code_that_returns(int32_t number, int64_t size) {
  std::vector<uint8_t> code(size, 0xCC);
  code[0] = 0xB8;
  std::memcpy(code.data() + 1, &number, sizeof number);
  code[5] = 0xC3;
  return code;
}

int32_t result_of(const Executable& executable) {
  return reinterpret_cast<int32_t (*)()>(reinterpret_cast<uintptr_t>(executable.data()))();
}

void test_executable() {
  Executable executable;
  CHECK(executable.data() == nullptr && executable.bytes() == 0, "nothing yet");
  const bool maps = std::ifstream("/proc/self/maps").good();
  const int64_t page = sysconf(_SC_PAGESIZE);
  int32_t number = 41;
  for (const int64_t size : {int64_t{6}, page, page + 1, 40 * page}) {
    const std::vector<uint8_t> code = code_that_returns(++number, size);
    CHECK(executable.assign(code.data(), size), "assigned");
    CHECK(executable.bytes() >= size && executable.bytes() % page == 0, std::to_string(size));
    CHECK(std::memcmp(executable.data(), code.data(), size) == 0, "a copy of the code");
    CHECK(result_of(executable) == number, std::to_string(number));
    if (!maps) continue;
    for (const int64_t at : {int64_t{0}, executable.bytes() - 1}) {
      const Permissions found = permissions(executable.data() + at);
      CHECK(found.here.substr(0, 3) == "r-x", found.here);
      CHECK(!found.any_writable_code, "pages are written or executed");
    }
  }
  const void* before = executable.data();
  CHECK(executable.assign(nullptr, 0), "no code");
  CHECK(executable.data() == nullptr && executable.bytes() == 0, "no pages");
  if (maps) CHECK(permissions(before).here.substr(0, 3) != "r-x", "the pages are given back");
  CHECK(executable.assign(code_that_returns(7, 6).data(), 6), "assigned after nothing");
  CHECK(result_of(executable) == 7, "runs");
}

#else

void test_masked_lanes_are_not_touched() {}
void test_executable() {}

#endif

}  // namespace
}  // namespace fbconv::test

int main() {
  using namespace fbconv::test;
  const char* asked = std::getenv("FBCONV_JIT");
  if (asked != nullptr && std::strcmp(asked, "0") == 0) {
    CHECK(!fbconv::can_compile_patterns(), "FBCONV_JIT=0");
    test_switched_off();
    return verdict();
  }
  if (!fbconv::can_compile_patterns()) {
    std::cout << "patterns cannot be compiled here: " << fbconv::capability_name() << "\n";
    return kSkipped;
  }
  test_lists();
  test_unreachable();
  test_masked_lanes_are_not_touched();
  test_executable();
  return verdict();
}
