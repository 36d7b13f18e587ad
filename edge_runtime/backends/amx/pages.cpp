// Memory on huge pages; knows no matrix and no ONNX Runtime.
//
// A token reads every weight. In pages of 4 kB a processor asks for an address 512 times as often as in pages of 2 MB,
// and its own fetching ahead ends with every page.
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr size_t kHugePage = 2 << 20;  // on x86-64

}  // namespace

// Move whole pages [begin, begin + size), which nobody writes to meanwhile, onto huge pages at the same addresses, where
// they belong to no file any more. False, and nothing has changed, where there is no memory for it or too little to move.
extern "C" __attribute__((visibility("default"))) bool edge_runtime_settle(void* begin, size_t size) {
  if (size < 2 * kHugePage) return false;
  const size_t room_size = size + kHugePage;
  void* const mapped = mmap(nullptr, room_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return false;
  char* const room = static_cast<char*>(mapped);
  // As far behind the beginning of a huge page as the original, so that huge pages can be moved whole.
  const size_t skipped = (reinterpret_cast<uintptr_t>(begin) - reinterpret_cast<uintptr_t>(room)) % kHugePage;
  bool is_moved = madvise(room, room_size, MADV_HUGEPAGE) == 0;
  if (is_moved) {
    std::memcpy(room + skipped, begin, size);
    is_moved = mremap(room + skipped, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, begin) != MAP_FAILED;
  }
  if (!is_moved) {
    munmap(room, room_size);
    return false;
  }
  if (skipped) munmap(room, skipped);
  if (skipped < kHugePage) munmap(room + skipped + size, kHugePage - skipped);
  return true;
}
