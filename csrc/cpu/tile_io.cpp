#include "tile_io.h"

#include <algorithm>
#include <vector>

namespace fbconv {
namespace {

// The part of a phase's rows or columns that lies inside the map: elements first .. last - 1 of a
// run that starts at `begin`, and the coordinate of the first.
struct Span {
  int64_t begin, length, first, last, coordinate;
  int64_t count() const { return last - first; }
  int64_t before() const { return first - begin; }
  bool whole() const { return count() == length; }
};

Span clip(const Axis& axis, int64_t phase, int64_t begin, int64_t count) {
  Span span{begin, count, 0, 0, 0};
  axis.clip(phase, begin, begin + count, &span.first, &span.last);
  span.coordinate = axis.coordinate(span.first, phase);
  return span;
}

// What one list of a tile shows of a channel's map: the lines and columns that lie inside it, and
// how far apart neighbours are in the map.
template <typename T>
struct Window {
  Span h, w;
  T* first;  // of the tile's first image in channel 0
  int64_t row_step, column_step, image_step;

  int64_t points() const { return h.count() * w.count(); }
  int64_t points_before() const { return h.before() * w.length + w.before(); }
  bool empty() const { return points() == 0; }
  // Rows follow each other in the map without a gap.
  bool dense() const { return column_step == 1 && (row_step == w.count() || h.count() == 1); }
};

template <typename T>
Window<T> window(const Span& h, const Span& w, const SweepAxis& axis_h, const SweepAxis& axis_w,
                 bool source, MapView<T> map, const Tile& tile) {
  const int64_t step_h = source ? axis_h.source.step : axis_h.out.step;
  const int64_t step_w = source ? axis_w.source.step : axis_w.out.step;
  T* first = map.data + tile.image * map.batch_stride;
  if (h.count() > 0 && w.count() > 0) {
    first += h.coordinate * map.row_stride + w.coordinate * map.column_stride;
  }
  return {h, w, first, step_h * map.row_stride, step_w * map.column_stride, map.batch_stride};
}

template <typename T>
Window<const T> source_window(const Sweep& sweep, const Tiling& t, const Tile& tile,
                              MapView<const T> map, const Plane& plane) {
  const int64_t row = sweep.h.first + tile.row - sweep.h.lead + plane.shift_h;
  const int64_t column = sweep.w.first - sweep.w.lead + plane.shift_w;
  const int64_t rows = t.copies_rows() ? tile.rows : tile.rows + sweep.h.reach;
  const int64_t columns = t.copies_columns() ? sweep.w.grid : sweep.w.grid + sweep.w.reach;
  return window(clip(sweep.h.source, plane.phase_h, row, rows),
                clip(sweep.w.source, plane.phase_w, column, columns), sweep.h, sweep.w, true, map,
                tile);
}

// A phase of the out map at the tile's grid points.
template <typename T>
Window<T> out_window(const Sweep& sweep, const Tile& tile, MapView<T> map, int64_t phase) {
  const int64_t phases_w = sweep.w.out.phases;
  return window(clip(sweep.h.out, phase / phases_w, sweep.h.first + tile.row, tile.rows),
                clip(sweep.w.out, phase % phases_w, sweep.w.first, sweep.w.grid), sweep.h, sweep.w,
                false, map, tile);
}

template <typename T>
void zero(T* data, int64_t count) {
  std::fill(data, data + count, T(0));
}

// Bits of the lanes of a line whose columns lie inside the map.
void line_masks(const Span& w, int64_t lanes, int64_t vectors, uint16_t* mask) {
  for (int64_t v = 0; v < vectors; ++v) {
    mask[v] = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t column = v * lanes + lane - w.before();
      if (column >= 0 && column < w.count()) mask[v] |= static_cast<uint16_t>(1u << lane);
    }
  }
}

// The same for all points of a window, row after row without a gap.
void point_masks(const Span& h, const Span& w, int64_t lanes, int64_t vectors, uint16_t* mask) {
  std::fill(mask, mask + vectors, uint16_t{0});
  for (int64_t r = h.before(); r < h.before() + h.count(); ++r) {
    for (int64_t c = w.before(); c < w.before() + w.count(); ++c) {
      const int64_t point = r * w.length + c;
      mask[point / lanes] |= static_cast<uint16_t>(1u << point % lanes);
    }
  }
}

constexpr int64_t kLongestStep = int64_t{1} << 27;  // that a vector's lanes can be addressed with

// How the pixel lanes of a list are packed from a window; all channels' lists have the same.
struct Recipe {
  bool whole_lines = false;  // that copy_lines can take
  int64_t before = 0;        // elements of the list that come before the first line
  int64_t start = 0;         // of that line in the map, from the window's first element
  int64_t to_line = 0, from_line = 0, lines = 0, vectors = 0;
  int64_t step = 1;  // from one element to the next
  int64_t lanes = 0;
  std::vector<uint16_t> mask;

  int64_t mask_elements() const { return vectors * lanes; }
};

// Lines of pixels, to_line elements apart.
template <typename T>
Recipe line_recipe(const Window<T>& from, int64_t to_line, int64_t lanes, int64_t vectors) {
  Recipe recipe;
  recipe.to_line = to_line;
  recipe.vectors = vectors;
  recipe.lanes = lanes;
  if (from.empty()) return recipe;
  recipe.whole_lines = from.column_step < kLongestStep;
  recipe.step = from.column_step;
  recipe.before = from.h.before() * to_line;
  recipe.start = -from.w.before() * from.column_step;
  recipe.from_line = from.row_step;
  recipe.lines = from.h.count();
  recipe.mask.resize(vectors);
  line_masks(from.w, lanes, vectors, recipe.mask.data());
  return recipe;
}

// All points of every image, row after row, each image from a whole vector on.  A shift along a row
// of the window is one along the map where their rows are equally long.
template <typename T>
Recipe point_recipe(const Window<T>& from, int64_t images, int64_t lanes, int64_t vectors) {
  Recipe recipe;
  recipe.to_line = vectors * lanes;
  recipe.vectors = vectors;
  recipe.lanes = lanes;
  if (from.empty()) return recipe;
  recipe.whole_lines =
      from.column_step < kLongestStep && from.row_step == from.w.length * from.column_step;
  recipe.step = from.column_step;
  recipe.start = -from.points_before() * from.column_step;
  recipe.from_line = from.image_step;
  recipe.lines = images;
  recipe.mask.resize(vectors);
  point_masks(from.h, from.w, lanes, vectors, recipe.mask.data());
  return recipe;
}

// Asks for what the next channel's lists read: every channel is a new page to the hardware, which
// would start guessing anew.
template <typename T>
void fetch_lines(const Recipe& recipe, const T* first) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t line = 0; line < recipe.lines; ++line) {
    const T* from = first + recipe.start + line * recipe.from_line;
    for (int64_t i = 0; i < recipe.mask_elements(); i += kLine) __builtin_prefetch(from + i);
  }
}

// One list of `size` elements by its recipe; `first` is the window's first element in this channel.
template <typename T>
void pack_pixels(const KernelTable<T>& k, const Tiling& t, const Window<const T>& from,
                 const Recipe& recipe, const T* first, int64_t size, T* to) {
  const int64_t end = recipe.before + recipe.lines * recipe.to_line;
  if (recipe.whole_lines) {
    if (recipe.before > 0) zero(to, recipe.before);
    k.copy_lines(to + recipe.before, recipe.to_line, first + recipe.start, recipe.from_line,
                 recipe.step, recipe.mask.data(), recipe.vectors, recipe.lines);
    if (end < size) zero(to + end, size - end);
    return;
  }
  zero(to, size);
  if (from.empty()) return;
  const bool points = t.kind == Lanes::kTaps;
  const int64_t line = points ? from.w.length : recipe.to_line;
  T* inside = to + from.h.before() * line + from.w.before();
  for (int64_t image = 0; image < (points ? recipe.lines : 1); ++image) {
    k.copy(inside + image * recipe.to_line, line, 1, first + image * from.image_step, from.row_step,
           from.column_step, from.h.count(), from.w.count());
  }
}

// One lane per image; `line` elements between lines.
template <typename T>
void pack_lanes(const KernelTable<T>& k, const Window<const T>& from, const T* first,
                int64_t images, int64_t line, int64_t size, T* to) {
  if (from.empty()) return zero(to, size);
  const bool all = from.h.whole() && from.w.whole() && images == k.lanes;
  const int64_t written = all ? from.h.count() * line : 0;
  zero(to + written, size - written);
  T* inside = to + from.h.before() * line + from.w.before() * k.lanes;
  if (from.dense()) {
    k.pack_images(inside, from.w.count(), line, first, from.image_step, images, from.points());
  } else if (from.column_step == 1) {
    for (int64_t r = 0; r < from.h.count(); ++r) {
      k.pack_images(inside + r * line, from.w.count(), line, first + r * from.row_step,
                    from.image_step, images, from.w.count());
    }
  } else {
    for (int64_t image = 0; image < images; ++image) {
      k.copy(inside + image, line, k.lanes, first + image * from.image_step, from.row_step,
             from.column_step, from.h.count(), from.w.count());
    }
  }
}

// Channels are neighbours in memory (channels_last, linear layers): a pixel of many at once.
template <typename T>
void pack_channel_run(const KernelTable<T>& k, const Window<const T>& from, const T* first,
                      int64_t images, int64_t line, int64_t pitch, int64_t run, T* to) {
  const int64_t written = from.w.whole() && from.h.before() == 0 ? from.h.count() * line : 0;
  if (written < pitch) {
    for (int64_t i = 0; i < run; ++i) zero(to + i * pitch + written, pitch - written);
  }
  for (int64_t r = 0; r < from.h.count(); ++r) {
    for (int64_t c = 0; c < from.w.count(); ++c) {
      k.pack_images(to + (from.h.before() + r) * line + (from.w.before() + c) * k.lanes, 1, pitch,
                    first + r * from.row_step + c * from.column_step, from.image_step, images, run);
    }
  }
}

// How many of the planes from `begin` on differ only in that each is of the next channel.
int64_t channel_run(const Plane* planes, int64_t begin, int64_t end) {
  int64_t last = begin + 1;
  while (last < end && planes[last].number == planes[begin].number &&
         planes[last].channel == planes[last - 1].channel + 1) {
    ++last;
  }
  return last - begin;
}

template <typename T>
void unpack_window(const KernelTable<T>& k, const Tiling& t, const Tile& tile, const T* from,
                   const Window<T>& to) {
  if (to.empty()) return;
  const int64_t line = t.line * t.lanes, rows = to.h.count(), columns = to.w.count();
  if (t.kind == Lanes::kImages) {
    const T* inside = from + to.h.before() * line + to.w.before() * t.lanes;
    if (to.dense()) {
      k.unpack_images(to.first, to.image_step, tile.images, inside, columns, line, to.points());
      return;
    }
    for (int64_t r = 0; r < rows && to.column_step == 1; ++r) {
      k.unpack_images(to.first + r * to.row_step, to.image_step, tile.images, inside + r * line,
                      columns, line, columns);
    }
    for (int64_t image = 0; image < tile.images && to.column_step != 1; ++image) {
      k.copy(to.first + image * to.image_step, to.row_step, to.column_step, inside + image, line,
             t.lanes, rows, columns);
    }
    return;
  }
  const bool points = t.kind == Lanes::kTaps;
  const int64_t from_line = points ? to.w.length : line;
  const int64_t image_size = points ? t.line / t.images * t.lanes : 0;
  for (int64_t image = 0; image < tile.images; ++image) {
    const T* inside = from + image * image_size + to.h.before() * from_line + to.w.before();
    T* first = to.first + image * to.image_step;
    if (to.dense() && from_line == columns) {
      k.copy(first, 0, 1, inside, 0, 1, 1, to.points());
    } else {
      k.copy(first, to.row_step, to.column_step, inside, from_line, 1, rows, columns);
    }
  }
}

}  // namespace

template <typename T>
void pack_planes(const Sweep& sweep, const Tiling& t, const Tile& tile, MapView<const T> source,
                 const Planes& planes, int64_t begin, int64_t end, T* packed) {
  const KernelTable<T>& k = kernels<T>();
  const bool points = t.kind == Lanes::kTaps, images = t.kind == Lanes::kImages;
  const int64_t width = t.copies_columns() ? sweep.w.grid : sweep.w.grid + sweep.w.reach;
  const int64_t vectors = points ? t.line / t.images : (width + t.lanes - 1) / t.lanes;
  // Planes that are not copies are also read as a whole, to their very end.
  const int64_t size = t.copies_columns() ? t.source_lines * t.source_line : t.plane;
  const Plane* list = planes.list.data();
  std::vector<Window<const T>> windows(planes.numbers);
  std::vector<Recipe> recipes(images ? 0 : planes.numbers);
  for (int64_t i = 0; i < planes.numbers; ++i) {
    const Window<const T> from = windows[i] =
        source_window<T>(sweep, t, tile, source, planes.kinds.data()[i]);
    if (images) continue;
    recipes[i] = points ? point_recipe(from, tile.images, t.lanes, vectors)
                        : line_recipe(from, t.source_line, t.lanes, vectors);
  }
  for (int64_t i = begin; i < end; ++i) {
    T* to = packed + i * t.plane;
    const Window<const T>& from = windows[list[i].number];
    const T* first = from.first + list[i].channel * source.channel_stride;
    if (!images) {
      const Recipe& recipe = recipes[list[i].number];
      const bool new_channel = i == begin || list[i].channel != list[i - 1].channel;
      if (new_channel && recipe.whole_lines && recipe.step == 1) {
        fetch_lines(recipe, first + source.channel_stride);
      }
      pack_pixels(k, t, from, recipe, first, size, to);
    } else if (source.channel_stride == 1 && !from.empty()) {
      const int64_t run = channel_run(list, i, end);
      pack_channel_run(k, from, first, tile.images, t.source_line, t.plane, run, to);
      i += run - 1;
    } else {
      pack_lanes(k, from, first, tile.images, t.source_line, size, to);
    }
  }
}

template <typename T>
void pack_grid(const Sweep& sweep, const Tiling& t, const Tile& tile, MapView<const T> map,
               int64_t begin, int64_t end, T* packed) {
  const KernelTable<T>& k = kernels<T>();
  const bool points = t.kind == Lanes::kTaps, images = t.kind == Lanes::kImages;
  const int64_t vectors = points ? t.line / t.images : t.line, line = t.line * t.lanes;
  const Window<const T> from = out_window(sweep, tile, map, 0);
  const T* first = from.first + begin * map.channel_stride;
  T* to = packed + begin * t.grid_pitch;
  if (images && map.channel_stride == 1) {
    pack_channel_run(k, from, first, tile.images, line, t.grid_pitch, end - begin, to);
    return;
  }
  Recipe recipe;
  if (!images) {
    recipe = points ? point_recipe(from, tile.images, t.lanes, vectors)
                    : line_recipe(from, line, t.lanes, vectors);
  }
  for (int64_t channel = begin; channel < end; ++channel) {
    if (images) {
      pack_lanes(k, from, first, tile.images, line, t.lines * line, to);
    } else {
      pack_pixels(k, t, from, recipe, first, t.lines * line, to);
    }
    to += t.grid_pitch;
    first += map.channel_stride;
  }
}

template <typename T>
T* direct_rows(const Sweep& sweep, const Tiling& t, const Tile& tile, MapView<T> out) {
  const bool lines = t.kind == Lanes::kColumns || t.kind == Lanes::kPlain;
  if (!lines || sweep.out_phases() != 1 || out.column_stride != 1) return nullptr;
  const Window<T> to = out_window(sweep, tile, out, 0);
  const bool all = to.h.whole() && to.w.whole() && to.w.count() == t.line * t.lanes;
  return all ? to.first : nullptr;
}

template <typename T>
void unpack_rows(const Sweep& sweep, const Tiling& t, const Tile& tile, const T* packed,
                 int64_t begin, int64_t end, MapView<T> out) {
  const KernelTable<T>& k = kernels<T>();
  const int64_t phases = sweep.out_phases();
  if (t.kind == Lanes::kImages && out.channel_stride == 1 && phases == 1) {
    Window<T> to = out_window(sweep, tile, out, 0);
    to.first += begin;
    for (int64_t r = 0; r < to.h.count(); ++r) {
      for (int64_t c = 0; c < to.w.count(); ++c) {
        k.unpack_images(to.first + r * to.row_step + c * to.column_step, to.image_step, tile.images,
                        packed + ((to.h.before() + r) * t.line + to.w.before() + c) * t.lanes, 1,
                        t.grid_pitch, end - begin);
      }
    }
    return;
  }
  for (int64_t phase = 0; phase < phases; ++phase) {
    Window<T> to = out_window(sweep, tile, out, phase);
    T* const first_channel = to.first;
    const int64_t first = begin + (phase - begin % phases + phases) % phases;
    for (int64_t row = first; row < end; row += phases) {
      to.first = first_channel + row / phases * out.channel_stride;
      unpack_window(k, t, tile, packed + (row - begin) * t.grid_pitch, to);
    }
  }
}

#define FBCONV_INSTANTIATE(T)                                                                     \
  template void pack_planes<T>(const Sweep&, const Tiling&, const Tile&, MapView<const T>,        \
                               const Planes&, int64_t, int64_t, T*);                              \
  template void pack_grid<T>(const Sweep&, const Tiling&, const Tile&, MapView<const T>, int64_t, \
                             int64_t, T*);                                                        \
  template T* direct_rows<T>(const Sweep&, const Tiling&, const Tile&, MapView<T>);               \
  template void unpack_rows<T>(const Sweep&, const Tiling&, const Tile&, const T*, int64_t,       \
                               int64_t, MapView<T>);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
