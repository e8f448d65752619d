// Maps that are read where they lie, or almost.
//
// Where a convolution's output is as large as its input and its stride is one, a tap is a shift of
// the flattened map.  Vectors of neighbouring pixels of the output then need no packed copy of the
// input: a tap's lanes that leave the map, at its border or over the end of a row, are masked.
// Where rows are whole vectors, a copy with zeros between the rows needs no masks either.
#pragma once

#include <vector>

#include "row_lists.h"

namespace fbconv {

// The vectors of one image's map, line by line, and which of their lanes each mask lets through.
struct InPlaceMap {
  int64_t pixels = 0, lanes = 0, vectors = 0;
  int64_t line_vectors = 1;     // of a line: a row where rows are padded, else a single vector
  int64_t source_line = 0;      // elements from a line of the source to the next
  int64_t reach = 0;            // most elements that a tap moves by
  int64_t reach_lines = 0;      // most rows, where rows are padded
  int64_t masks = 0;            // that taps use; one more in a row holds the lanes inside the map
  std::vector<uint16_t> table;  // (vectors, masks + 1)

  bool partial() const { return pixels % lanes != 0; }  // the last vector leaves the map
  bool padded() const { return reach_lines > 0; }
  int64_t lines() const { return vectors / line_vectors; }
  int64_t line_pixels() const { return line_vectors * lanes; }
  int64_t bytes() const { return static_cast<int64_t>(sizeof(uint16_t) * table.capacity()); }
  const uint16_t* row(int64_t vector) const { return table.data() + vector * (masks + 1); }
};

constexpr int64_t kMostMasks = kNoMask;  // entries hold their mask's number in a byte

// Whether every tap of this convolution is a shift of the flattened map, and none so long that what
// is read around a tile would outgrow the map.
bool reads_in_place(const ConvGeometry& g);

// Taps of the convolution, or of its adjoint (input gradients), on the flattened map.
void make_in_place_taps(const ConvGeometry& g, bool adjoint, int64_t lanes, TapTable* taps,
                        InPlaceMap* map);

// Whether the rows of the map are whole vectors, and no tap moves further to a side than one.
bool rows_are_vectors(const ConvGeometry& g, int64_t lanes);

// The same taps on a copy with a vector of zeros before, between and after all rows.
void make_padded_taps(const ConvGeometry& g, bool adjoint, int64_t lanes, TapTable* taps,
                      InPlaceMap* map);

// Entries without a mask read whole vectors, as the map itself does.
void fill_open_masks(const InPlaceMap& map, RowLists* lists);

}  // namespace fbconv
