#include "pattern.h"

namespace fbconv {
namespace {

std::string field_error(const char* field, int64_t expected, int64_t got) {
  return std::string("its header says ") + field + " = " + std::to_string(got) + ", expected " +
         std::to_string(expected);
}

std::string header_error(const int32_t* packed, const PatternView& p) {
  const char* names[] = {"magic", "rows", "channels", "taps", "nnz"};
  const int64_t expected[] = {kPatternMagic, p.rows, p.channels, p.taps, p.nnz};
  for (int i = 0; i < 5; ++i) {
    if (packed[i] != expected[i]) return field_error(names[i], expected[i], packed[i]);
  }
  return {};
}

// One compressed list: pointers rise from 0 to nnz, entries rise strictly inside [0, bound).
std::string list_error(const char* what, const int32_t* ptr, int64_t lists, const int32_t* index,
                       int64_t nnz, int64_t bound) {
  if (ptr[0] != 0 || ptr[lists] != nnz) {
    return std::string(what) + " pointers must run from 0 to nnz = " + std::to_string(nnz);
  }
  for (int64_t i = 0; i < lists; ++i) {
    if (ptr[i + 1] < ptr[i] || ptr[i + 1] > nnz) {
      return std::string(what) + " pointers must not fall, they do at " + std::to_string(i + 1);
    }
  }
  for (int64_t i = 0; i < lists; ++i) {
    const int32_t begin = ptr[i], end = ptr[i + 1];
    if (begin == end) continue;
    // In a rising list the ends bound the rest; without an early exit the comparison vectorises.
    int32_t falls = 0;
    for (int32_t k = begin + 1; k < end; ++k) falls |= index[k] <= index[k - 1];
    if (falls != 0 || index[begin] < 0 || index[end - 1] >= bound) {
      return std::string(what) + " indices must rise strictly within [0, " + std::to_string(bound) +
             "), they do not in list " + std::to_string(i);
    }
  }
  return {};
}

}  // namespace

std::string pattern_error(const int32_t* packed, const PatternView& p, PatternHalf half) {
  std::string error = header_error(packed, p);
  if (!error.empty()) return error;
  if (half == PatternHalf::kForward) {
    return list_error("row", p.row_ptr, p.rows, p.index, p.nnz, p.channels * p.taps);
  }
  error = list_error("channel", p.channel_ptr, p.channels, p.t_index, p.nnz, p.rows * p.taps);
  if (!error.empty()) return error;
  int32_t outside = 0;
  for (int64_t k = 0; k < p.nnz; ++k) outside |= p.t_value[k] < 0 || p.t_value[k] >= p.nnz;
  return outside == 0 ? std::string() : "its value numbers must lie in [0, nnz)";
}

}  // namespace fbconv
