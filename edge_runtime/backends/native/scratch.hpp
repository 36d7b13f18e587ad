// Memory for one call, of a pool that all operators and threads share; knows nothing of what is written there.
#pragma once
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "tiles.hpp"

namespace amx {

// Pieces of memory that no call needs at the moment. Sessions run one after another, so that a few soon serve all.
class Pool {
 public:
  struct Piece {
    void* data = nullptr;
    size_t bytes = 0;
  };

  // The process's own, which goes with the last who holds it.
  static std::shared_ptr<Pool> shared() {
    static std::mutex lock;
    static std::weak_ptr<Pool> last;
    const std::lock_guard guard(lock);
    std::shared_ptr<Pool> pool = last.lock();
    if (!pool) last = pool = std::make_shared<Pool>();
    return pool;
  }

  Pool() = default;
  Pool(const Pool&) = delete;
  ~Pool() {
    for (const Piece& piece : pieces_) std::free(piece.data);
  }

  Piece take(size_t bytes) {
    Piece piece;
    {
      const std::lock_guard guard(lock_);
      if (!pieces_.empty()) {
        piece = pieces_.back();
        pieces_.pop_back();
      }
    }
    if (piece.bytes < bytes) {
      std::free(piece.data);
      piece = {std::aligned_alloc(4096, round_up(bytes, 4096)), bytes};
      if (!piece.data) throw std::bad_alloc();
    }
    return piece;
  }

  void give(Piece piece) {
    const std::lock_guard guard(lock_);
    try {
      pieces_.push_back(piece);
    } catch (const std::bad_alloc&) {
      std::free(piece.data);
    }
  }

 private:
  std::mutex lock_;
  std::vector<Piece> pieces_;
};

// A piece of a pool, given back when it goes out of scope.
class Scratch {
 public:
  Scratch(Pool& pool, size_t bytes) : pool_(pool), piece_(pool.take(bytes)) {}
  ~Scratch() { pool_.give(piece_); }
  Scratch(const Scratch&) = delete;

  template <typename T>
  T* at(size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(piece_.data) + offset);
  }

 private:
  Pool& pool_;
  Pool::Piece piece_;
};

}  // namespace amx
