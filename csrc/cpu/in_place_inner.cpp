#include "in_place_inner.h"

#include "work_split.h"

namespace fbconv {

const float* zeros(int64_t count) {
  thread_local std::vector<float> own;
  if (static_cast<int64_t>(own.size()) < count) own.assign(count, 0.0f);
  return own.data();
}

void place_spots(const InPlaceMap& map, const InPlaceTile& tile, int64_t x_image, int64_t y_image,
                 std::vector<Spot>* spots) {
  spots->resize(tile.images * tile.vectors);
  for (int64_t i = 0; i < tile.images; ++i) {
    for (int64_t v = 0; v < tile.vectors; ++v) {
      (*spots)[i * tile.vectors + v] = {
          i * x_image + v * map.lanes,
          (tile.image + i) * y_image + (tile.vector + v) * map.lanes, map.row(tile.vector + v)};
    }
  }
}

const float* compute_inner(const InPlaceInner& inner, const std::vector<Spot>& spots, int64_t lanes,
                           int64_t group, const float* x, Buffer<float>* buffer,
                           const Parallel& parallel) {
  thread_local std::vector<Spot> placed;
  placed = spots;
  for (size_t i = 0; i < placed.size(); ++i) placed[i].y = static_cast<int64_t>(i) * lanes;
  const std::vector<Spot>& at = placed;
  const float* no_bias = zeros(inner.rows);
  float* rows = buffer->reserve(inner.lists->most_group_rows() * inner.pitch);
  const int64_t from = inner.lists->group_begin(group), to = inner.lists->group_begin(group + 1);
  in_parts(to - from, parallel, [&](int64_t begin, int64_t end) {
    inner.lists->run(from + begin, from + end, 0, at, x, inner.values, no_bias, rows);
  });
  return rows;
}

}  // namespace fbconv
