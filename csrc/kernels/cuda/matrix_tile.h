// Sizes of the tiles in matrix_tile.cuh, which plans need too.
#pragma once

namespace fastconv::cuda {

constexpr int kChunk = 32;  // of the depth: two steps of the matrix unit
// Between the rows of a tile: then eight rows of 16 bytes, which the matrix loads read at once, lie
// in different banks where a row is a multiple of 32 elements.
constexpr int kTileGap = 8;
constexpr int kChunkPitch = kChunk + kTileGap;

}  // namespace fastconv::cuda
