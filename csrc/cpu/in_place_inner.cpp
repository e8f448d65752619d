#include "in_place_inner.h"

#include "work_split.h"

namespace fbconv {

const float* zeros(int64_t count) {
  thread_local std::vector<float> own;
  if (static_cast<int64_t>(own.size()) < count) own.assign(count, 0.0f);
  return own.data();
}

void place_spots(const InPlaceMap& map, const InPlaceTile& tile, const SpotView<const float>& x,
                 const SpotView<const float>& y, std::vector<Spot>* spots) {
  spots->clear();
  for (int64_t image = 0; image < tile.images; ++image) {
    for (int64_t line = 0; line < tile.lines; ++line) {
      for (int64_t v = 0; v < map.line_vectors; ++v) {
        spots->push_back({x.offset(image, line, v * map.lanes),
                          y.offset(image, line, v * map.lanes),
                          map.row((tile.line + line) * map.line_vectors + v)});
      }
    }
  }
}

const float* compute_inner(const InPlaceInner& inner, const std::vector<Spot>& spots, int64_t group,
                           const float* source, Buffer<float>* buffer, const Parallel& parallel) {
  float* rows = buffer->reserve(inner.lists->most_group_rows() * inner.pitch);
  const int64_t from = inner.lists->group_begin(group), to = inner.lists->group_begin(group + 1);
  in_parts(to - from, parallel, [&](int64_t begin, int64_t end) {
    inner.lists->run(from + begin, from + end, 0, spots, source, inner.values, nullptr, rows);
  });
  return rows;
}

}  // namespace fbconv
