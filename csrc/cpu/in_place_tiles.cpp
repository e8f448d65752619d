#include "in_place_tiles.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "../core/tiling.h"
#include "kernels.h"
#include "work_split.h"

namespace fbconv {
namespace {

constexpr int64_t kTileBytes = 640 * 1024;  // of source and output: they share the second cache
constexpr int64_t kLeastSpots = 8;
// Channels of so many bytes are copied before they are read: where they lie a power of two apart,
// as they often do, all are mapped onto the same few sets of the first cache.
constexpr int64_t kCopiedBytes = 1024;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Parts of `count`, of up to `size` each, `others` times over: no thread is left alone with a last
// one.
int64_t share(int64_t count, int64_t size, int64_t others, int64_t threads) {
  int64_t parts = ceil_div(count, size);
  while (parts < count && parts * others < 8 * threads && parts * others % threads != 0) ++parts;
  return parts;
}

// Elements of a copied channel before its first pixel: whole vectors.
int64_t margin(const InPlaceMap& map) { return ceil_div(map.reach, map.lanes) * map.lanes; }

// The pixels that a tile reads, as they lie in the map.
template <typename T>
void copy_flat(const InPlaceMap& map, const InPlaceTile& tile, const T* from, T* to) {
  const int64_t pixel = tile.line * map.line_pixels();
  const int64_t first = std::max<int64_t>(0, pixel - map.reach);
  const int64_t last = std::min(map.pixels, pixel + tile.lines * map.line_pixels() + map.reach);
  std::memcpy(to + first - pixel, from + first, sizeof(T) * static_cast<size_t>(last - first));
}

// The rows that a tile reads with a vector of zeros after each, and before the first.
template <typename T>
void copy_padded(const InPlaceMap& map, const InPlaceTile& tile, const uint16_t* masks,
                 const T* from, T* to) {
  const auto zero = [](T* begin, T* end) {
    if (begin < end) std::fill(begin, end, T(0));
  };
  const int64_t first = std::max<int64_t>(0, tile.line - map.reach_lines);
  const int64_t last = std::min(map.lines(), tile.line + tile.lines + map.reach_lines);
  T* rows = to + (first - tile.line) * map.source_line;
  T* end = to + (last - tile.line) * map.source_line;
  zero(to - margin(map), rows);
  kernels<T>().copy_lines(rows, map.source_line, from + first * map.line_pixels(),
                          map.line_pixels(), 1, masks, map.line_vectors + 1, last - first);
  zero(end, to + (tile.lines + map.reach_lines) * map.source_line);
}

}  // namespace

InPlaceTiling tile_in_place(const InPlaceMap& map, int64_t batch, int64_t channels,
                            int64_t element_size, int64_t threads, int64_t most) {
  const int64_t line_bytes = channels * map.line_pixels() * element_size;
  const int64_t fit = std::max(kTileBytes / line_bytes, ceil_div(kLeastSpots, map.line_vectors));
  const int64_t wanted = std::max<int64_t>(1, std::min(most / map.line_vectors, fit));
  const int64_t lines = map.lines();
  InPlaceTiling t{};
  if (lines > wanted || batch == 1) {
    t.images = 1;
    t.image_tiles = batch;
    t.lines = ceil_div(lines, share(lines, wanted, batch, threads));
  } else {
    t.images = ceil_div(batch, share(batch, wanted / lines, 1, threads));
    t.image_tiles = ceil_div(batch, t.images);
    t.lines = lines;
  }
  t.line_tiles = ceil_div(lines, t.lines);
  if (map.padded() || map.pixels * element_size >= kCopiedBytes) {
    t.copy_image = t.lines * map.source_line + 2 * margin(map);
    t.copy_pitch = odd_pitch(t.images * t.copy_image, map.lanes);
  }
  return t;
}

InPlaceTile in_place_tile(const InPlaceTiling& t, const InPlaceMap& map, int64_t batch,
                          int64_t number) {
  const int64_t image = number / t.line_tiles * t.images;
  const int64_t line = number % t.line_tiles * t.lines;
  return {image, std::min(t.images, batch - image), line, std::min(t.lines, map.lines() - line)};
}

template <typename T>
SpotView<const T> in_place_source(const InPlaceTiling& t, const InPlaceMap& map,
                                  const InPlaceTile& tile, MapView<const T> source,
                                  int64_t channels, Buffer<T>* buffer, const Parallel& parallel) {
  if (!t.copies()) return flat_spots(map, tile, source);
  T* copy = buffer->reserve(channels * t.copy_pitch) + margin(map);
  // Of a padded line all lanes of its vectors, and none of those that follow.
  std::vector<uint16_t> masks(map.line_vectors + 1, static_cast<uint16_t>((1u << map.lanes) - 1));
  masks.back() = 0;
  in_parts(channels, parallel, [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel) {
      for (int64_t i = 0; i < tile.images; ++i) {
        const T* from =
            source.data + (tile.image + i) * source.batch_stride + channel * source.channel_stride;
        T* to = copy + channel * t.copy_pitch + i * t.copy_image;
        if (map.padded()) {
          copy_padded(map, tile, masks.data(), from, to);
        } else {
          copy_flat(map, tile, from, to);
        }
      }
    }
  });
  return {copy, t.copy_image, map.source_line};
}

template SpotView<const float> in_place_source(const InPlaceTiling&, const InPlaceMap&,
                                               const InPlaceTile&, MapView<const float>, int64_t,
                                               Buffer<float>*, const Parallel&);
template SpotView<const double> in_place_source(const InPlaceTiling&, const InPlaceMap&,
                                                const InPlaceTile&, MapView<const double>, int64_t,
                                                Buffer<double>*, const Parallel&);

}  // namespace fbconv
