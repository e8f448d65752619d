// Strided rectangles in and out of tiles.

template <typename T>
inline void copy_line(T* to, int64_t to_step, const T* from, int64_t from_step, int64_t count) {
  if (to_step == 1 && from_step == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * to_step] = from[i * from_step];
  }
}

template <typename T>
void copy(T* to, int64_t to_row, int64_t to_column, const T* from, int64_t from_row,
          int64_t from_column, int64_t rows, int64_t columns) {
  if (columns == 1) {  // linear layers: one long line instead of many of one element
    copy_line(to, to_row, from, from_row, rows);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    copy_line(to + r * to_row, to_column, from + r * from_row, from_column, columns);
  }
}
