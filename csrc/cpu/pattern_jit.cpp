#include "pattern_jit.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "emitter.h"
#include "kernels.h"

namespace fbconv {
namespace {

// Code that is run for one spot after the other: what the first instruction cache holds, less what
// its neighbours need.
constexpr int64_t kChunkBytes = 22 * 1024;
constexpr int64_t kSpotsAhead = 2;  // of which the output is fetched
constexpr int64_t kMultiplyBytes = 10, kLoadBytes = 11;

constexpr Register kX = Register::kFirst, kValues = Register::kSecond, kY = Register::kThird,
                   kMasks = Register::kFourth, kBias = Register::kFifth, kAhead = Register::kSixth;
using Code = void (*)(const float* x, const float* values, float* y, const uint16_t* masks,
                      const float* bias, const float* y_ahead);

// An entry of a row block, in the order in which code is emitted.
struct Operand {
  int32_t chunk, mask;
  int64_t x;
  int32_t row, value;

  bool same_load(const Operand& other) const {
    return chunk == other.chunk && mask == other.mask && x == other.x;
  }
  bool operator<(const Operand& other) const {
    if (chunk != other.chunk) return chunk < other.chunk;
    if (mask != other.mask) return mask < other.mask;
    return x != other.x ? x < other.x : row < other.row;
  }
};

bool asked_for() {
  const char* asked = std::getenv("FBCONV_JIT");
  return asked == nullptr || std::string(asked) != "0";
}

bool system_allows_code() {
  const uint8_t code = 0xC3;  // ret
  Executable trial;
  return trial.assign(&code, 1);
}

}  // namespace

bool can_compile_patterns() {
#if defined(FBCONV_X86) && !defined(_WIN32)
  static const bool can =
      asked_for() && std::string(capability_name()) == "avx512" && system_allows_code();
  return can;
#else
  return false;
#endif
}

class CompiledLists::Compiler {
 public:
  Compiler(const Listing& listing, CompiledLists* to) : l_(listing), to_(*to) {}

  bool compile() {
    to_.blocks_ = std::max<int64_t>(1, (l_.planes + l_.block_planes - 1) / l_.block_planes);
    cut_rows();
    for (const RowBlock& rows : to_.row_blocks_) {
      collect(rows);
      emit(rows);
    }
    to_.chunk_begin_.push_back(static_cast<int64_t>(to_.chunk_code_.size()));
    return emitter_.fits() && to_.code_.assign(emitter_.data(), emitter_.size());
  }

 private:
  // Row blocks of almost equal size that keep within groups.
  void cut_rows() {
    const int64_t rows = l_.entries->rows;
    for (int64_t first = 0; first < rows; first += l_.group_rows) {
      to_.group_begin_.push_back(to_.row_blocks());
      const int64_t size = std::min(l_.group_rows, rows - first);
      to_.most_group_rows_ = std::max(to_.most_group_rows_, size);
      const int64_t parts = (size + kCompiledRows - 1) / kCompiledRows;
      for (int64_t part = 0; part < parts; ++part) {
        to_.row_blocks_.push_back(
            {first + size * part / parts, first + size * (part + 1) / parts, first});
      }
    }
    to_.group_begin_.push_back(to_.row_blocks());
  }

  // The operands of a row block, cut into chunks of neighbouring planes.
  void collect(const RowBlock& rows) {
    const int32_t* ptr = l_.entries->ptr.data();
    const Entry* entries = l_.entries->list.data();
    plane_bytes_.assign(l_.planes, 0);
    for (int32_t k = ptr[rows.begin]; k < ptr[rows.end]; ++k) {
      plane_bytes_[entries[k].plane] += kMultiplyBytes + kLoadBytes / 2;
    }
    plane_chunk_.resize(l_.planes);
    chunk_block_.clear();
    int64_t filled = 0;
    for (int64_t plane = 0; plane < l_.planes; ++plane) {
      const int64_t block = plane / l_.block_planes;
      const bool new_block = chunk_block_.empty() || chunk_block_.back() != block;
      if (new_block || filled + plane_bytes_[plane] > kChunkBytes) {
        chunk_block_.push_back(block);
        filled = 0;
      }
      filled += plane_bytes_[plane];
      plane_chunk_[plane] = static_cast<int32_t>(chunk_block_.size()) - 1;
    }
    if (chunk_block_.empty()) chunk_block_.push_back(0);
    operands_.clear();
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int32_t k = ptr[row]; k < ptr[row + 1]; ++k) {
        const Entry& e = entries[k];
        const int64_t plane = l_.x_restarts ? e.plane % l_.block_planes : e.plane;
        operands_.push_back({plane_chunk_[e.plane], e.mask, plane * l_.x_pitch + e.offset,
                             static_cast<int32_t>(row - rows.begin), e.value});
      }
    }
    std::sort(operands_.begin(), operands_.end());
  }

  void emit(const RowBlock& rows) {
    size_t next = 0;
    int64_t block = 0;
    to_.chunk_begin_.push_back(static_cast<int64_t>(to_.chunk_code_.size()));
    for (size_t chunk = 0; chunk < chunk_block_.size(); ++chunk) {
      for (; block < chunk_block_[chunk]; ++block) {
        to_.chunk_begin_.push_back(static_cast<int64_t>(to_.chunk_code_.size()));
      }
      const size_t first = next;
      while (next < operands_.size() && operands_[next].chunk == static_cast<int32_t>(chunk)) {
        ++next;
      }
      if (chunk > 0 && first == next) continue;
      to_.chunk_code_.push_back(emitter_.size());
      emit_chunk(rows, first, next, chunk == 0);
    }
    for (++block; block < to_.blocks_; ++block) {
      to_.chunk_begin_.push_back(static_cast<int64_t>(to_.chunk_code_.size()));
    }
  }

  void emit_chunk(const RowBlock& rows, size_t first, size_t last, bool is_first) {
    std::vector<bool> used(rows.end - rows.begin, is_first), begun(rows.end - rows.begin, true);
    for (size_t i = first; i < last; ++i) used[operands_[i].row] = true;
    if (is_first && l_.inner) {
      begun.assign(begun.size(), false);
    } else {
      load_sums(rows, used, is_first);
      if (is_first) fetch_sums(rows);
    }
    int32_t mask = -1;
    int loaded = kFirstSource;
    for (size_t i = first; i < last; ++i) {
      const Operand& o = operands_[i];
      if (o.mask != mask) emitter_.load_mask({kMasks, (mask = o.mask) * kMaskBytes});
      if (i == first || !o.same_load(operands_[i - 1])) {
        loaded = loaded + 1 < Emitter::kVectors ? loaded + 1 : kFirstSource;
        emitter_.load(loaded, {kX, o.x * kFloatBytes}, o.mask >= 0);
      }
      const Address value{kValues, o.value * kFloatBytes};
      if (begun[o.row]) {
        emitter_.multiply_add(o.row, loaded, value);
      } else {
        emitter_.multiply(o.row, loaded, value);
        begun[o.row] = true;
      }
    }
    for (size_t row = 0; row < begun.size(); ++row) {
      if (!begun[row]) emitter_.zero(static_cast<int>(row));
    }
    store_sums(rows, used);
    emitter_.finish();
  }

  void load_sums(const RowBlock& rows, const std::vector<bool>& used, bool is_first) {
    if (!is_first && l_.masked_stores) emitter_.load_mask({kMasks, l_.masks * kMaskBytes});
    for (int64_t row = 0; row < rows.end - rows.begin; ++row) {
      if (!used[row]) continue;
      if (is_first) {
        emitter_.broadcast(static_cast<int>(row), {kBias, (rows.begin + row) * kFloatBytes});
      } else {
        emitter_.load(static_cast<int>(row), sum_address(rows, row), l_.masked_stores);
      }
    }
  }

  // Rows of the output lie pages apart, which the hardware does not follow.
  void fetch_sums(const RowBlock& rows) {
    for (int64_t row = 0; row < rows.end - rows.begin; ++row) {
      emitter_.fetch({kAhead, sum_address(rows, row).offset});
    }
  }

  void store_sums(const RowBlock& rows, const std::vector<bool>& used) {
    if (l_.masked_stores) emitter_.load_mask({kMasks, l_.masks * kMaskBytes});
    for (int64_t row = 0; row < rows.end - rows.begin; ++row) {
      if (used[row]) {
        emitter_.store(sum_address(rows, row), static_cast<int>(row), l_.masked_stores);
      }
    }
  }

  Address sum_address(const RowBlock& rows, int64_t row) const {
    return {kY, (rows.begin + row - rows.group_first) * l_.y_pitch * kFloatBytes};
  }

  static constexpr int64_t kFloatBytes = 4, kMaskBytes = 2;
  static constexpr int kFirstSource = static_cast<int>(kCompiledRows);

  const Listing& l_;
  CompiledLists& to_;
  Emitter emitter_;
  std::vector<int64_t> plane_bytes_, chunk_block_;
  std::vector<int32_t> plane_chunk_;
  std::vector<Operand> operands_;
};

bool CompiledLists::compile(const Listing& listing) {
  return ready_ = can_compile_patterns() && Compiler(listing, this).compile();
}

void CompiledLists::run(int64_t row_block_begin, int64_t row_block_end, int64_t block,
                        const std::vector<Spot>& spots, const float* x, const float* values,
                        const float* bias, float* y) const {
  const int64_t count = static_cast<int64_t>(spots.size());
  for (int64_t r = row_block_begin; r < row_block_end; ++r) {
    const int64_t* chunks = chunk_begin_.data() + r * blocks_ + block;
    for (int64_t chunk = chunks[0]; chunk < chunks[1]; ++chunk) {
      const Code code =
          reinterpret_cast<Code>(reinterpret_cast<uintptr_t>(code_.data() + chunk_code_[chunk]));
      for (int64_t i = 0; i < count; ++i) {
        const Spot& ahead = spots[std::min(i + kSpotsAhead, count - 1)];
        code(x + spots[i].x, values, y + spots[i].y, spots[i].masks, bias, y + ahead.y);
      }
    }
  }
}

int64_t CompiledLists::bytes() const {
  return code_.bytes() + static_cast<int64_t>(sizeof(RowBlock) * row_blocks_.capacity()) +
         static_cast<int64_t>(sizeof(int64_t) * (group_begin_.capacity() + chunk_begin_.capacity() +
                                                 chunk_code_.capacity()));
}

}  // namespace fbconv
