// Memory for one call, of a pool that all sessions and threads share; knows nothing of what is written there.
#pragma once
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "tiles.hpp"

namespace amx {

// Sessions run one after another, so that a few pieces soon serve all. Given back when it goes out of scope.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    const std::lock_guard guard(lock_);
    if (!pool_.empty()) {
      piece_ = pool_.back();
      pool_.pop_back();
    }
    if (piece_.bytes < bytes) {
      std::free(piece_.data);
      piece_ = {std::aligned_alloc(4096, round_up(bytes, 4096)), bytes};
      if (!piece_.data) throw std::bad_alloc();
    }
  }
  ~Scratch() {
    const std::lock_guard guard(lock_);
    try {
      pool_.push_back(piece_);
    } catch (const std::bad_alloc&) {
      std::free(piece_.data);
    }
  }
  Scratch(const Scratch&) = delete;

  template <typename T>
  T* at(size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(piece_.data) + offset);
  }

 private:
  struct Piece {
    void* data = nullptr;
    size_t bytes = 0;
  } piece_;
  static inline std::mutex lock_;
  static inline std::vector<Piece> pool_;
};

}  // namespace amx
