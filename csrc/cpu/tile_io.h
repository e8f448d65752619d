// Maps into packed tiles and back.
#pragma once

#include "../core/tiling.h"
#include "kernels.h"

namespace fbconv {

// All phases of channels [0, channels) around a tile's grid points, zeros outside the map.
template <typename T>
void pack_source(const KernelTable<T>& kernels, const Sweep& sweep, const Tiling& tiling,
                 const Tile& tile, MapView<const T> source, int64_t channels, T* packed);

// The grid points themselves, zeros in the margins that a flat tile has between rows and images;
// `map` lies on the grid (a sweep's out axis with one phase).
template <typename T>
void pack_grid(const KernelTable<T>& kernels, const Sweep& sweep, const Tiling& tiling,
               const Tile& tile, MapView<const T> map, int64_t channels, int64_t pitch, T* packed);

// Rows row_begin .. row_end - 1, each a (channel, phase) of the out map; margins are dropped.
template <typename T>
void unpack_rows(const KernelTable<T>& kernels, const Sweep& sweep, const Tiling& tiling,
                 const Tile& tile, const T* packed, int64_t pitch, int64_t row_begin,
                 int64_t row_end, MapView<T> out);

}  // namespace fbconv
