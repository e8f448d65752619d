// Maps into packed tiles and back.
#pragma once

#include "../core/row_lists.h"
#include "kernels.h"

namespace fbconv {

// Planes begin .. end - 1 around a tile's grid points, zeros outside the map.
template <typename T>
void pack_planes(const Sweep& sweep, const Tiling& tiling, const Tile& tile,
                 MapView<const T> source, const Planes& planes, int64_t begin, int64_t end,
                 T* packed);

// The grid points themselves of channels begin .. end - 1, zeros in lanes without one; `map` lies
// on the grid (a sweep's out axis with one phase).
template <typename T>
void pack_grid(const Sweep& sweep, const Tiling& tiling, const Tile& tile, MapView<const T> map,
               int64_t begin, int64_t end, T* packed);

// Where kernels may write a tile's rows at once, because its vectors lie in the out map as they do
// in a tile; null if they don't.
template <typename T>
T* direct_rows(const Sweep& sweep, const Tiling& tiling, const Tile& tile, MapView<T> out);

// Rows begin .. end - 1, each a (channel, phase) of the out map.
template <typename T>
void unpack_rows(const Sweep& sweep, const Tiling& tiling, const Tile& tile, const T* packed,
                 int64_t begin, int64_t end, MapView<T> out);

}  // namespace fbconv
