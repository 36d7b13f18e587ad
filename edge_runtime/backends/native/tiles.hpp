// AMX's tile registers: how many rows they have, and that the compiler keeps what they read.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace amx {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;                      // of a row
constexpr int kTileSize = kTileRows * kTileBytes;   // bytes
constexpr int kPairColumns = 2 * kTileRows;         // of a product, computed at once

// Registers 0 to 3 are sums: two rows of tiles by two columns of them. 4 and 5 are left operands, as many rows as the
// sums beside them; 6 and 7 are right ones, of 16 rows.
class Tiles {
 public:
  explicit Tiles(int upper_rows = kTileRows, int lower_rows = kTileRows) { configure(upper_rows, lower_rows); }
  ~Tiles() { asm volatile("tilerelease" ::: "memory"); }
  Tiles(const Tiles&) = delete;

  void configure(int upper_rows, int lower_rows) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } layout;
    const int rows[8] = {upper_rows, upper_rows, lower_rows, lower_rows, upper_rows, lower_rows, kTileRows, kTileRows};
    for (int i = 0; i < 8; ++i) {
      layout.row_bytes[i] = kTileBytes;
      layout.rows[i] = static_cast<uint8_t>(rows[i]);
    }
    // By hand: GCC 12 drops the stores to what its own intrinsic reads.
    asm volatile("ldtilecfg %0" ::"m"(layout));
  }
};

// What was stored before is in memory when a tile is loaded after: GCC's intrinsics do not say that they read.
inline void finish_stores() { asm volatile("" ::: "memory"); }

inline size_t round_up(size_t size, size_t step) { return (size + step - 1) / step * step; }

}  // namespace amx
