// Shifts and masks of maps that are read where they lie, against the pixels that taps reach.
#include "../../csrc/core/in_place.h"
#include "fixture.h"

namespace fbconv::test {
namespace {

constexpr int64_t kMaskBits = 16;

// One plane of one image: in_h, in_w, kernel, padding, dilation.
ConvGeometry geometry(int64_t rows, int64_t columns, int64_t kernel_h, int64_t kernel_w,
                      int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w) {
  return {1, 1, rows,  columns, 1,          kernel_h,   kernel_w,
          1, 1, pad_h, pad_w,   dilation_h, dilation_w, 1};
}

std::vector<Case> same_size_cases() {
  return {
      {"1x1", geometry(5, 7, 1, 1, 0, 0, 1, 1)},
      {"1x1 of whole vectors", geometry(4, 8, 1, 1, 0, 0, 1, 1)},
      {"1x1, dilated", geometry(5, 7, 1, 1, 0, 0, 3, 2)},
      {"3x3", geometry(7, 9, 3, 3, 1, 1, 1, 1)},
      {"3x3 of whole vectors", geometry(8, 16, 3, 3, 1, 1, 1, 1)},
      {"3x3 on one pixel", geometry(1, 1, 3, 3, 1, 1, 1, 1)},
      {"3x3 on a row", geometry(1, 37, 3, 3, 1, 1, 1, 1)},
      {"3x3 on a column", geometry(37, 1, 3, 3, 1, 1, 1, 1)},
      {"3x3, dilated", geometry(11, 13, 3, 3, 2, 2, 2, 2)},
      {"3x3, dilated beyond the map", geometry(3, 2, 3, 3, 4, 5, 4, 5)},
      {"3x3, dilated unevenly", geometry(9, 10, 3, 3, 1, 3, 1, 3)},
      {"5x5", geometry(12, 11, 5, 5, 2, 2, 1, 1)},
      {"5x5 on a smaller map", geometry(3, 2, 5, 5, 2, 2, 1, 1)},
      {"7x3", geometry(5, 20, 7, 3, 3, 1, 1, 1)},
      {"1x3", geometry(6, 5, 1, 3, 0, 1, 1, 1)},
      {"3x1", geometry(6, 5, 3, 1, 1, 0, 1, 1)},
      {"2x2, dilated", geometry(6, 7, 2, 2, 1, 1, 2, 2)},
      {"4x2, dilated", geometry(9, 7, 4, 2, 3, 2, 2, 4)},
      {"wide", geometry(3, 67, 3, 3, 1, 1, 1, 1)},
  };
}

// The pixel that a tap of the convolution (of its adjoint) reads for a pixel, or -1 outside.
int64_t pixel_read(const ConvGeometry& g, bool adjoint, int64_t tap, int64_t pixel) {
  const int64_t kh = tap / g.kernel_w, kw = tap % g.kernel_w;
  int64_t row = pixel / g.in_w, column = pixel % g.in_w;
  if (adjoint) {  // the output whose tap reads this pixel of the input
    row = row + g.pad_h - kh * g.dilation_h;
    column = column + g.pad_w - kw * g.dilation_w;
  } else {
    row = row - g.pad_h + kh * g.dilation_h;
    column = column - g.pad_w + kw * g.dilation_w;
  }
  const bool inside = row >= 0 && row < g.in_h && column >= 0 && column < g.in_w;
  return inside ? row * g.in_w + column : -1;
}

void check_vectors(const ConvGeometry& g, const InPlaceMap& map, int64_t lanes,
                   const std::string& what) {
  const int64_t pixels = g.in_h * g.in_w;
  CHECK(map.pixels == pixels && map.lanes == lanes, what);
  CHECK((map.vectors - 1) * lanes < pixels && pixels <= map.vectors * lanes, what);
  CHECK(map.partial() == (map.vectors * lanes != pixels), what);
  CHECK(static_cast<int64_t>(map.table.size()) == map.vectors * (map.masks + 1), what);
  for (int64_t v = 0; v < map.vectors; ++v) {
    for (int64_t lane = 0; lane < kMaskBits; ++lane) {
      const bool inside = lane < lanes && v * lanes + lane < pixels;
      CHECK((map.row(v)[map.masks] >> lane & 1) == inside, what + ", lanes inside the map");
    }
  }
}

// A tap without a mask lets all lanes of all vectors through.
bool lets_through(const InPlaceMap& map, int32_t mask, int64_t vector, int64_t lane) {
  return mask < 0 || (map.row(vector)[mask] >> lane & 1) != 0;
}

void check_taps(const ConvGeometry& g, bool adjoint, int64_t lanes, const std::string& what) {
  InPlaceMap map;
  TapTable taps;
  make_in_place_taps(g, adjoint, lanes, &taps, &map);
  check_vectors(g, map, lanes, what);
  CHECK(taps.planes == 1, what);
  int64_t reach = 0, masked = 0;
  for (int64_t tap = 0; tap < g.taps(); ++tap) {
    const int32_t mask = taps.mask.data()[tap], offset = taps.offset.data()[tap];
    const std::string which = what + ", tap " + std::to_string(tap);
    CHECK(mask >= -1 && mask < map.masks, which);
    CHECK(taps.plane.data()[tap] == 0 && taps.out_phase.data()[tap] == 0, which);
    reach = std::max<int64_t>(reach, std::abs(offset));
    masked += mask >= 0;
    bool all = true;
    for (int64_t v = 0; v < map.vectors; ++v) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t pixel = v * lanes + lane;
        const int64_t read = pixel < map.pixels ? pixel_read(g, adjoint, tap, pixel) : -1;
        all &= read >= 0;
        CHECK(lets_through(map, mask, v, lane) == (read >= 0),
              which + ", pixel " + std::to_string(pixel));
        CHECK(read < 0 || pixel + offset == read, which + ", pixel " + std::to_string(pixel));
      }
    }
    CHECK((mask < 0) == all, which + " is masked where it has to be");
  }
  CHECK(map.reach == reach, what);
  CHECK(map.masks == masked, what);
}

void test_taps() {
  for (const Case& c : same_size_cases()) {
    // Taps further away than the map is large still have right masks; they are just not worth it.
    const ConvGeometry& g = c.geometry;
    CHECK(reads_in_place(g) == (g.pad_h <= g.in_h && g.pad_w <= g.in_w), c.name);
    for (const bool adjoint : {false, true}) {
      for (const int64_t lanes : {8, 16}) {
        check_taps(c.geometry, adjoint, lanes,
                   std::string(c.name) + (adjoint ? ", adjoint, " : ", ") + std::to_string(lanes));
      }
    }
  }
}

// Where the output has the input's size and every output pixel reads around its own place, no
// further away than the map is large.
void test_which_read_in_place() {
  int64_t in_place = 0;
  for (const int64_t stride : {1, 2})
    for (int64_t size = 1; size <= 6; ++size)
      for (int64_t kernel = 1; kernel <= 5; ++kernel)
        for (int64_t pad = 0; pad <= 4; ++pad)
          for (int64_t dilation = 1; dilation <= 3; ++dilation)
            for (const bool rows : {false, true}) {
              const int64_t extent = naive_extent(size, kernel, stride, pad, dilation);
              if (extent == 0) continue;
              ConvGeometry g = geometry(4, 4, 1, 1, 0, 0, 1, 1);
              (rows ? g.in_h : g.in_w) = size;
              (rows ? g.kernel_h : g.kernel_w) = kernel;
              (rows ? g.stride_h : g.stride_w) = stride;
              (rows ? g.pad_h : g.pad_w) = pad;
              (rows ? g.dilation_h : g.dilation_w) = dilation;
              const bool expected = stride == 1 && extent == size && pad <= size;
              CHECK(reads_in_place(g) == expected,
                    std::to_string(size) + ", kernel " + std::to_string(kernel));
              in_place += expected;
            }
  CHECK(in_place > 50, "some do");
}

// The same on a copy: rows a vector of zeros apart, as many lines of zeros above and below as taps
// reach.
void check_padded(const ConvGeometry& g, bool adjoint, int64_t lanes, const std::string& what) {
  InPlaceMap map;
  TapTable taps;
  make_padded_taps(g, adjoint, lanes, &taps, &map);
  check_vectors(g, map, lanes, what);
  CHECK(map.padded() && map.masks == 0, what);
  CHECK(map.lines() == g.in_h && map.line_pixels() == g.in_w, what);
  const int64_t line = map.source_line, first = map.reach_lines * line + lanes;
  CHECK(line >= g.in_w + lanes, what);
  std::vector<int64_t> copy((g.in_h + 2 * map.reach_lines) * line + lanes, -1);
  for (int64_t pixel = 0; pixel < map.pixels; ++pixel) {
    copy[first + pixel / g.in_w * line + pixel % g.in_w] = pixel;
  }
  int64_t reach = 0;
  for (int64_t tap = 0; tap < g.taps(); ++tap) {
    const int32_t offset = taps.offset.data()[tap];
    const std::string which = what + ", tap " + std::to_string(tap);
    CHECK(taps.mask.data()[tap] == -1, which);
    reach = std::max<int64_t>(reach, std::abs(offset));
    for (int64_t pixel = 0; pixel < map.pixels; ++pixel) {
      const int64_t at = first + pixel / g.in_w * line + pixel % g.in_w + offset;
      const bool inside = at >= 0 && at < static_cast<int64_t>(copy.size());
      CHECK(inside && copy[at] == pixel_read(g, adjoint, tap, pixel),
            which + ", pixel " + std::to_string(pixel));
    }
  }
  CHECK(map.reach == reach, what);
}

void test_padded() {
  const Case cases[] = {
      {"3x3", geometry(5, 16, 3, 3, 1, 1, 1, 1)},
      {"3x3 on one row", geometry(1, 32, 3, 3, 1, 1, 1, 1)},
      {"5x5, dilated", geometry(9, 16, 5, 5, 4, 4, 2, 2)},
      {"3x1", geometry(6, 16, 3, 1, 1, 0, 1, 1)},
      {"as far as a vector", geometry(4, 32, 3, 3, 1, 8, 1, 8)},
      {"2x2, dilated", geometry(6, 48, 2, 2, 1, 1, 2, 2)},
  };
  for (const Case& c : cases) {
    for (const bool adjoint : {false, true}) {
      for (const int64_t lanes : {8, 16}) {
        const std::string what = std::string(c.name) + ", padded, " + std::to_string(lanes);
        CHECK(reads_in_place(c.geometry) && rows_are_vectors(c.geometry, lanes), what);
        check_padded(c.geometry, adjoint, lanes, what);
      }
    }
  }
  CHECK(!rows_are_vectors(geometry(5, 24, 3, 3, 1, 1, 1, 1), 16), "half a vector");
  CHECK(!rows_are_vectors(geometry(5, 16, 3, 3, 1, 17, 1, 17), 16), "further than a vector");
}

void test_open_masks() {
  InPlaceMap map;
  TapTable taps;
  make_in_place_taps(geometry(4, 8, 3, 3, 1, 1, 1, 1), false, 16, &taps, &map);
  CHECK(map.masks == 8, "all taps but the middle one leave the map");
  const uint8_t before[] = {0, kNoMask, 7, kNoMask};
  RowLists lists;
  lists.entries = 4;
  std::copy(before, before + 4, lists.mask.reserve(4));
  fill_open_masks(map, &lists);
  for (int i = 0; i < 4; ++i) {
    CHECK(lists.mask.data()[i] == (before[i] == kNoMask ? 8 : before[i]), std::to_string(i));
  }
}

}  // namespace
}  // namespace fbconv::test

int main() {
  fbconv::test::test_taps();
  fbconv::test::test_padded();
  fbconv::test::test_which_read_in_place();
  fbconv::test::test_open_masks();
  return fbconv::test::verdict();
}
