// Maps that are read where they lie.
//
// Where a convolution's output is as large as its input and its stride is one, a tap is a shift of
// the flattened map.  Vectors of neighbouring pixels of the output then need no packed copy of the
// input: a tap's lanes that leave the map, at its border or over the end of a row, are masked.
#pragma once

#include <vector>

#include "row_lists.h"

namespace fbconv {

// The vectors of one image's map, and which of their lanes each mask lets through.
struct InPlaceMap {
  int64_t pixels = 0, lanes = 0, vectors = 0;
  int64_t reach = 0;            // most pixels that a tap moves by
  int64_t masks = 0;            // that taps use; one more in a row holds the lanes inside the map
  std::vector<uint16_t> table;  // (vectors, masks + 1)

  bool partial() const { return pixels % lanes != 0; }  // the last vector leaves the map
  const uint16_t* row(int64_t vector) const { return table.data() + vector * (masks + 1); }
};

constexpr int64_t kMostMasks = kNoMask;  // entries hold their mask's number in a byte

// Whether every tap of this convolution is a shift of the flattened map.
bool reads_in_place(const ConvGeometry& g);

// Taps of the convolution, or of its adjoint (input gradients), on the flattened map.
void make_in_place_taps(const ConvGeometry& g, bool adjoint, int64_t lanes, TapTable* taps,
                        InPlaceMap* map);

// Entries without a mask read whole vectors, as the map itself does.
void fill_open_masks(const InPlaceMap& map, RowLists* lists);

}  // namespace fbconv
