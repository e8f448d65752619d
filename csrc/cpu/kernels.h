// The inner loops every CPU op is made of, as a table of function pointers per instruction set.
// Bodies are written once in the .inl files and compiled by kernels_<isa>.cpp.
#pragma once

#include <cstdint>

namespace fbconv {

// Lists of entries over a grid of `lines` lines of `line` vectors.  x and y are aligned to vectors
// as far as their tiling promises it; lines of x lie x_line elements apart, rows of y y_row.
template <typename T>
struct ListWork {
  const T* x;
  int64_t x_line;
  int64_t y_row, y_line;
  int64_t lines, line;
  const int32_t* ptr;  // of a block: entries of row r are ptr[r] .. ptr[r + 1] - 1
  const int32_t* offset;
  int64_t row_begin, row_end;  // y points to row_begin's grid
};

// Lists of entries over vectors of a map that is read where it lies (core/in_place.h): `spots` of
// them, whose x, y and masks lie a step apart.  A step of 0 between masks says that all spots have
// the same ones.
template <typename T>
struct MaskedWork {
  const T* x;
  const uint16_t* masks;
  int64_t spots, x_step, y_step, mask_step;
  int64_t y_row;
  uint8_t own_mask;  // the lanes inside the map
  bool open;         // all masks are full
  const int32_t* ptr;
  const int32_t* offset;
  const uint8_t* mask;         // of entries
  const int32_t* value;        // of entries, null where those of a list are neighbours
  const int32_t* first_value;  // of lists
  const int32_t* run_end;      // where rows that read the same as a row end; for shared values
  int64_t row_begin, row_end;  // y points to row_begin's
};

constexpr int64_t kDigestWords = 64;  // a block of digest's
constexpr int64_t kMaskBits = 16;     // a block of expand's and compress's

template <typename T>
struct KernelTable {
  int64_t lanes;  // elements of a vector

  // y[row] = sum_k values[k] * x[offset[k] + ...] over the row's k, added to y itself if
  // `accumulate`, else to bias[row] (or 0 if bias is null).
  void (*gather)(const ListWork<T>& work, const T* values, const T* bias, bool accumulate, T* y);

  // As gather, onto zeros, for rows of which those up to run_end[row] read the same offsets.
  void (*gather_runs)(const ListWork<T>& work, const int32_t* run_end, const T* values, T* y);

  // sums[k] += <y[row], x[offset[k] + ...]> over the grid, for the row's k.
  void (*correlate)(const ListWork<T>& work, const T* y, T* sums);

  // As gather and correlate, on maps that are read where they lie; null where the instruction set
  // has no masked loads.
  void (*masked_gather)(const MaskedWork<T>& work, const T* values, const T* bias, bool accumulate,
                        T* y);
  void (*masked_correlate)(const MaskedWork<T>& work, const T* y, T* sums);
  // Adds the products of entry k, lane by lane, to the vector sums + value[k] * lanes.  A row's
  // entries have neighbouring values.
  void (*masked_correlate_shared)(const MaskedWork<T>& work, const T* y, T* sums);

  // `lines` lines of `vectors` vectors of elements `step` apart; lanes without their bit in mask[v]
  // become zero and are not read.
  void (*copy_lines)(T* to, int64_t to_line, const T* from, int64_t from_line, int64_t step,
                     const uint16_t* mask, int64_t vectors, int64_t lines);

  // Elements 0 .. count - 1 of up to `lanes` images, one lane each: element i goes to (or comes
  // from) the vector at i / width * line + i % width * lanes.  Lanes without an image are zeroed
  // (or left out).
  void (*pack_images)(T* to, int64_t width, int64_t line, const T* from, int64_t image_stride,
                      int64_t images, int64_t count);
  void (*unpack_images)(T* to, int64_t image_stride, int64_t images, const T* from, int64_t width,
                        int64_t line, int64_t count);

  // A rectangle from one strided map to another.
  void (*copy)(T* to, int64_t to_row, int64_t to_column, const T* from, int64_t from_row,
               int64_t from_column, int64_t rows, int64_t columns);

  // `steps` multiply-adds of every one of `lanes` elements of up to 16 vectors; their operations.
  double (*multiply_adds)(T* lanes, T factor, T term, int64_t steps);

  // Blocks of a dense array, in whose masks the bits say where values go or come from, in order;
  // elsewhere lies `rest`, or 0 if that is null.
  void (*expand)(const uint16_t* mask, int64_t blocks, const T* values, const T* rest, T* dense);
  void (*compress)(const uint16_t* mask, int64_t blocks, const T* dense, T* values);

  // Blocks of words into the chains of a fingerprint, one for two words of a block; the same on
  // every instruction set.
  void (*digest)(const void* words, int64_t blocks, uint64_t* chains);
};

// The table in use: the best the CPU has, or what FBCONV_CPU_CAPABILITY=default|avx2|avx512 asks
// for.  Throws std::runtime_error if that is unknown or the CPU lacks it.
template <typename T>
const KernelTable<T>& kernels();
const char* capability_name();

}  // namespace fbconv
