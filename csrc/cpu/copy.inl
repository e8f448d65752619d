// Elements into the lanes of a tile and back.

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
  if (columns == 1) {  // one long line instead of many of one element
    copy_line(to, to_row, from, from_row, rows);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    copy_line(to + r * to_row, to_column, from + r * from_row, from_column, columns);
  }
}

template <typename T>
void copy_lines(T* to, int64_t to_line, const T* from, int64_t from_line, int64_t step,
                const uint16_t* mask, int64_t vectors, int64_t lines) {
  using V = Vec<T>;
  // Line after line: where lines are not whole vectors, a line's last one ends in the next.
  for (int64_t line = 0; line < lines; ++line, from += from_line, to += to_line) {
    for (int64_t v = 0; v < vectors; ++v) {
      const T* source = from + v * V::kLanes * step;
      V::store(to + v * V::kLanes, step == 1 ? V::load_masked(source, mask[v])
                                             : V::load_strided(source, step, mask[v]));
    }
  }
}

// Where element i of a map lies in a tile, walked in order.
struct Walk {
  int64_t width, line, lanes, column = 0, start = 0;

  int64_t at() const { return start + column * lanes; }
  void advance() {
    if (++column == width) {
      column = 0;
      start += line;
    }
  }
};

template <typename T>
void pack_images(T* to, int64_t width, int64_t line, const T* from, int64_t image_stride,
                 int64_t images, int64_t count) {
  using V = Vec<T>;
  Walk walk{width, line, V::kLanes};
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const int64_t size = count - i < V::kLanes ? count - i : V::kLanes;
    const uint16_t mask = static_cast<uint16_t>((1u << size) - 1);
    typename V::Type block[V::kLanes];
    for (int64_t image = 0; image < V::kLanes; ++image) {
      block[image] = image < images ? V::load_masked(from + image * image_stride + i, mask)
                                    : typename V::Type{};
    }
    V::transpose(block);
    for (int64_t e = 0; e < size; ++e, walk.advance()) V::store(to + walk.at(), block[e]);
  }
}

template <typename T>
void unpack_images(T* to, int64_t image_stride, int64_t images, const T* from, int64_t width,
                   int64_t line, int64_t count) {
  using V = Vec<T>;
  Walk walk{width, line, V::kLanes};
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const int64_t size = count - i < V::kLanes ? count - i : V::kLanes;
    const uint16_t mask = static_cast<uint16_t>((1u << size) - 1);
    typename V::Type block[V::kLanes];
    for (int64_t e = 0; e < V::kLanes; ++e) {
      block[e] = e < size ? V::load(from + walk.at()) : typename V::Type{};
      if (e < size) walk.advance();
    }
    V::transpose(block);
    for (int64_t image = 0; image < images; ++image) {
      V::store_masked(to + image * image_stride + i, block[image], mask);
    }
  }
}
