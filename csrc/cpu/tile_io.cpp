#include "tile_io.h"

#include <algorithm>

namespace fbconv {
namespace {

// The part of a phase's rows or columns that lies inside the map: elements first .. last - 1 of a
// run that starts at `begin`, and the coordinate of the first.
struct Span {
  int64_t begin, first, last, coordinate;
  int64_t count() const { return last - first; }
  int64_t before() const { return first - begin; }
};

Span clip(const Axis& axis, int64_t phase, int64_t begin, int64_t count) {
  Span span{begin, 0, 0, 0};
  axis.clip(phase, begin, begin + count, &span.first, &span.last);
  span.coordinate = axis.coordinate(span.first, phase);
  return span;
}

template <typename T>
void zero(T* data, int64_t count) {
  std::fill(data, data + count, T(0));
}

// One plane of rows x width: what lies inside the map is copied, the rest is zero.
template <typename T>
void pack_plane(const KernelTable<T>& kernels, const Span& h, const Span& w, int64_t rows,
                int64_t width, const T* from, int64_t from_row, int64_t from_column, T* plane) {
  if (h.count() == 0 || w.count() == 0) {
    zero(plane, rows * width);
    return;
  }
  T* inside = plane + h.before() * width;
  zero(plane, h.before() * width);
  const int64_t right = width - w.before() - w.count();
  if (right > 0 || w.before() > 0) {
    for (int64_t r = 0; r < h.count(); ++r) {
      zero(inside + r * width, w.before());
      zero(inside + r * width + width - right, right);
    }
  }
  kernels.copy(inside + w.before(), width, 1, from, from_row, from_column, h.count(), w.count());
  zero(inside + h.count() * width, (rows - h.before() - h.count()) * width);
}

}  // namespace

template <typename T>
void pack_source(const KernelTable<T>& kernels, const Sweep& sweep, const Tiling& t,
                 const Tile& tile, MapView<const T> source, int64_t channels, T* packed) {
  const Axis &axis_h = sweep.h.source, &axis_w = sweep.w.source;
  const int64_t first_row = sweep.h.first + tile.row - sweep.h.lead;
  const int64_t first_column = sweep.w.first - sweep.w.lead;
  const int64_t image_plane = t.source_rows * t.width;
  for (int64_t phase_h = 0; phase_h < axis_h.phases; ++phase_h) {
    const Span h = clip(axis_h, phase_h, first_row, tile.rows + sweep.h.reach);
    for (int64_t phase_w = 0; phase_w < axis_w.phases; ++phase_w) {
      const Span w = clip(axis_w, phase_w, first_column, t.width);
      T* plane = packed + (phase_h * axis_w.phases + phase_w) * t.plane;
      for (int64_t channel = 0; channel < channels; ++channel) {
        for (int64_t image = 0; image < tile.images; ++image) {
          const T* from = source.data + (tile.image + image) * source.batch_stride +
                          channel * source.channel_stride + h.coordinate * source.row_stride +
                          w.coordinate * source.column_stride;
          pack_plane(kernels, h, w, t.source_rows, t.width, from, axis_h.step * source.row_stride,
                     axis_w.step * source.column_stride,
                     plane + channel * t.pitch + image * image_plane);
        }
        T* end = plane + channel * t.pitch + tile.images * image_plane;
        zero(end, (t.images - tile.images) * image_plane);
      }
    }
  }
  const int64_t used = sweep.source_phases() * t.plane;
  for (int64_t channel = 0; channel < channels; ++channel) {
    zero(packed + channel * t.pitch + used, t.pitch - used);
  }
}

template <typename T>
void pack_grid(const KernelTable<T>& kernels, const Sweep& sweep, const Tiling& t, const Tile& tile,
               MapView<const T> map, int64_t channels, int64_t pitch, T* packed) {
  const Span h{0, 0, tile.rows, tile.row}, w{0, 0, sweep.w.grid, 0};
  const int64_t image_plane = t.source_rows * t.width;
  for (int64_t channel = 0; channel < channels; ++channel) {
    T* end = packed + channel * pitch;
    for (int64_t image = 0; image < tile.images; ++image) {
      const T* from = map.data + (tile.image + image) * map.batch_stride +
                      channel * map.channel_stride + h.coordinate * map.row_stride;
      // The last image of a tile has no rows below its grid rows.
      const int64_t rows = image + 1 < t.images ? t.source_rows : t.rows;
      pack_plane(kernels, h, w, rows, t.width, from, map.row_stride, map.column_stride, end);
      end = packed + channel * pitch + image * image_plane + rows * t.width;
    }
    zero(end, packed + channel * pitch + t.positions - end);
  }
}

template <typename T>
void unpack_rows(const KernelTable<T>& kernels, const Sweep& sweep, const Tiling& t,
                 const Tile& tile, const T* packed, int64_t pitch, int64_t row_begin,
                 int64_t row_end, MapView<T> out) {
  const Axis &axis_h = sweep.h.out, &axis_w = sweep.w.out;
  const int64_t phases = sweep.out_phases(), image_plane = t.source_rows * t.width;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const int64_t channel = row / phases, phase = row % phases;
    const Span h = clip(axis_h, phase / axis_w.phases, sweep.h.first + tile.row, tile.rows);
    const Span w = clip(axis_w, phase % axis_w.phases, sweep.w.first, sweep.w.grid);
    if (h.count() == 0 || w.count() == 0) continue;
    for (int64_t image = 0; image < tile.images; ++image) {
      T* to = out.data + (tile.image + image) * out.batch_stride + channel * out.channel_stride +
              h.coordinate * out.row_stride + w.coordinate * out.column_stride;
      const T* from = packed + (row - row_begin) * pitch + image * image_plane +
                      h.before() * t.width + w.before();
      kernels.copy(to, axis_h.step * out.row_stride, axis_w.step * out.column_stride, from, t.width,
                   1, h.count(), w.count());
    }
  }
}

#define FBCONV_INSTANTIATE(T)                                                                   \
  template void pack_source<T>(const KernelTable<T>&, const Sweep&, const Tiling&, const Tile&, \
                               MapView<const T>, int64_t, T*);                                  \
  template void pack_grid<T>(const KernelTable<T>&, const Sweep&, const Tiling&, const Tile&,   \
                             MapView<const T>, int64_t, int64_t, T*);                           \
  template void unpack_rows<T>(const KernelTable<T>&, const Sweep&, const Tiling&, const Tile&, \
                               const T*, int64_t, int64_t, int64_t, MapView<T>);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
