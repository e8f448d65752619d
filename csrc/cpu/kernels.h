// The inner loops every CPU op is made of, as a table of function pointers per instruction set.
// Bodies are written once in the .inl files and compiled by kernels_<isa>.cpp.
#pragma once

#include <cstdint>

namespace fbconv {

template <typename T>
struct KernelTable {
  int64_t lanes;  // elements of a vector; `positions` is always a multiple

  // y[row][p] = bias[row] + sum_k values[k] * x[offset[k] + p] over the row's k, 0 <= p <
  // positions. Rows are row_begin .. row_end - 1; y points to row_begin's, bias may be null.
  void (*gather)(const T* x, T* y, int64_t y_pitch, const int32_t* ptr, const int32_t* offset,
                 const T* values, const T* bias, int64_t row_begin, int64_t row_end,
                 int64_t positions);

  // out[value ? value[k] : k] += sum_p y[row][p] * x[offset[k] + p] over the row's k.
  void (*correlate)(const T* x, const T* y, int64_t y_pitch, const int32_t* ptr,
                    const int32_t* offset, const int32_t* value, T* out, int64_t row_begin,
                    int64_t row_end, int64_t positions);

  // A rectangle from one strided map to another.
  void (*copy)(T* to, int64_t to_row, int64_t to_column, const T* from, int64_t from_row,
               int64_t from_column, int64_t rows, int64_t columns);
};

// The table in use: the best the CPU has, or what FBCONV_CPU_CAPABILITY=default|avx2|avx512 asks
// for.  Throws std::runtime_error if that is unknown or the CPU lacks it.
template <typename T>
const KernelTable<T>& kernels();
const char* capability_name();

}  // namespace fbconv
