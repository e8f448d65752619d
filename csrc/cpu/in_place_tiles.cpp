#include "in_place_tiles.h"

#include <algorithm>
#include <cstring>

#include "../core/tiling.h"
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

int64_t margin(const InPlaceMap& map) { return ceil_div(map.reach, map.lanes) * map.lanes; }

}  // namespace

InPlaceTiling tile_in_place(const InPlaceMap& map, int64_t batch, int64_t channels,
                            int64_t element_size, int64_t threads, int64_t most) {
  const int64_t fit = kTileBytes / (channels * map.lanes * element_size);
  const int64_t wanted = std::min(most, std::max(fit, kLeastSpots));
  InPlaceTiling t{};
  if (map.vectors > wanted || batch == 1) {
    t.images = 1;
    t.image_tiles = batch;
    t.vectors = ceil_div(map.vectors, share(map.vectors, wanted, batch, threads));
  } else {
    t.images = ceil_div(batch, share(batch, std::max<int64_t>(1, wanted / map.vectors), 1, threads));
    t.image_tiles = ceil_div(batch, t.images);
    t.vectors = map.vectors;
  }
  t.vector_tiles = ceil_div(map.vectors, t.vectors);
  if (map.pixels * element_size >= kCopiedBytes) {
    t.copy_image = t.vectors * map.lanes + 2 * margin(map);
    t.copy_pitch = odd_pitch(t.images * t.copy_image, map.lanes);
  }
  return t;
}

InPlaceTile in_place_tile(const InPlaceTiling& t, const InPlaceMap& map, int64_t batch,
                          int64_t number) {
  const int64_t image = number / t.vector_tiles * t.images;
  const int64_t vector = number % t.vector_tiles * t.vectors;
  return {image, std::min(t.images, batch - image), vector,
          std::min(t.vectors, map.vectors - vector)};
}

template <typename T>
InPlaceSource<T> in_place_source(const InPlaceTiling& t, const InPlaceMap& map,
                                 const InPlaceTile& tile, MapView<const T> source, int64_t channels,
                                 Buffer<T>* buffer, const Parallel& parallel) {
  const int64_t pixel = tile.vector * map.lanes;
  const T* first_image = source.data + tile.image * source.batch_stride;
  if (!t.copies()) return {first_image + pixel, source.batch_stride};
  T* copy = buffer->reserve(channels * t.copy_pitch);
  const int64_t first = std::max<int64_t>(0, pixel - map.reach);
  const int64_t last = std::min(map.pixels, pixel + tile.vectors * map.lanes + map.reach);
  T* inside = copy + margin(map) + first - pixel;
  in_parts(channels, parallel, [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel) {
      const T* from = first_image + channel * source.channel_stride + first;
      for (int64_t i = 0; i < tile.images; ++i) {
        std::memcpy(inside + channel * t.copy_pitch + i * t.copy_image,
                    from + i * source.batch_stride, sizeof(T) * static_cast<size_t>(last - first));
      }
    }
  });
  return {copy + margin(map), t.copy_image};
}

template InPlaceSource<float> in_place_source(const InPlaceTiling&, const InPlaceMap&,
                                              const InPlaceTile&, MapView<const float>, int64_t,
                                              Buffer<float>*, const Parallel&);
template InPlaceSource<double> in_place_source(const InPlaceTiling&, const InPlaceMap&,
                                               const InPlaceTile&, MapView<const double>, int64_t,
                                               Buffer<double>*, const Parallel&);

}  // namespace fbconv
