/* Device and host memory inside one byte limit, as a Jetson has it: both come out of the same. */

#include "jetson.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const size_t ORIN_NX_BYTES = 16428122931; /* 15.3 GiB: what Linux shows of an Orin NX with 16 GB */
static const size_t POISON_LIMIT_BYTES = 1 << 22; /* larger blocks are poisoned at their start, to stay untouched */
static Block *blocks;
static size_t allocations_left = SIZE_MAX; /* SIZE_MAX: no end */

size_t limit_bytes(void) {
    const char *text = getenv("SIMULATED_JETSON_BYTES");
    return text ? strtoull(text, NULL, 10) : ORIN_NX_BYTES;
}

/* Lets `successes` more allocations happen, and refuses all after them; SIZE_MAX allows all again. */
EXPORT void jetson_fail_after(size_t successes) { allocations_left = successes; }

/* Whether all of a range is live memory that the device may touch. */
EXPORT int jetson_holds(uintptr_t address, size_t bytes) { return find_device(address, bytes) != NULL; }

static bool is_inside(uintptr_t base, const Block *block, uintptr_t address, size_t bytes) {
    return base && address >= base && address + bytes <= base + block->bytes;
}

Block *find_device(uintptr_t address, size_t bytes) {
    Block *block;
    lock();
    for (block = blocks; block && !is_inside(block->device, block, address, bytes); block = block->next) continue;
    unlock();
    return block;
}

Block *find_host(uintptr_t address, size_t bytes) {
    Block *block;
    lock();
    for (block = blocks; block && !is_inside(block->host, block, address, bytes); block = block->next) continue;
    unlock();
    return block;
}

static CUresult add_block(Block wanted, Block **added) {
    if (!wanted.bytes) return CUDA_ERROR_INVALID_VALUE;
    lock();
    size_t used = counts.device_bytes + counts.host_bytes;
    size_t limit = limit_bytes();
    bool is_refused = allocations_left == 0;
    if (!is_refused && allocations_left != SIZE_MAX) allocations_left--;
    if (is_refused || wanted.bytes > limit || used > limit - wanted.bytes) {
        counts.refusals++;
        unlock();
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    Block *block = malloc(sizeof *block);
    *block = wanted;
    block->context = current_context();
    block->next = blocks;
    blocks = block;
    counts.blocks++;
    *(block->host ? &counts.host_bytes : &counts.device_bytes) += block->bytes;
    if (used + block->bytes > counts.peak_bytes) counts.peak_bytes = used + block->bytes;
    unlock();
    *added = block;
    return CUDA_SUCCESS;
}

/* Gives the pages back and keeps the address, which nobody gets again: whoever still uses it is found out. */
static void give_back(uintptr_t address, size_t bytes) {
    mmap((void *)address, bytes, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static void remove_block(Block **place) {
    Block *block = *place;
    *place = block->next;
    counts.blocks--;
    *(block->host ? &counts.host_bytes : &counts.device_bytes) -= block->bytes;
    give_back(block->device, block->bytes);
    if (block->host) give_back(block->host, block->bytes);
    free(block);
}

static CUresult remove_by_address(uintptr_t address, bool is_host) {
    lock();
    for (Block **place = &blocks; *place; place = &(*place)->next)
        if ((is_host ? (*place)->host : (*place)->device) == address && is_host == ((*place)->host != 0)) {
            remove_block(place);
            unlock();
            return CUDA_SUCCESS;
        }
    unlock();
    return CUDA_ERROR_INVALID_VALUE;
}

void free_blocks_of(CUcontext context) {
    lock();
    for (Block **place = &blocks; *place;)
        if ((*place)->context == context) {
            counts.leaked_blocks++;
            counts.leaked_bytes += (*place)->bytes;
            remove_block(place);
        } else
            place = &(*place)->next;
    unlock();
}

EXPORT CUresult cuMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    TRY(check_ready());
    *total_bytes = limit_bytes();
    *free_bytes = *total_bytes - counts.device_bytes - counts.host_bytes;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
    TRY(check_ready());
    TRY(refuse_capture());
    Block *block;
    TRY(add_block((Block){.bytes = bytes}, &block));
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    memset(memory, 0xFF, bytes < POISON_LIMIT_BYTES ? bytes : POISON_LIMIT_BYTES);
    *address = block->device = (uintptr_t)memory;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFree(CUdeviceptr address) {
    TRY(check_ready());
    TRY(refuse_capture());
    TRY(drain_all());
    return remove_by_address(address, false);
}

EXPORT CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    TRY(check_ready());
    TRY(refuse_capture());
    Block *block;
    TRY(add_block((Block){.bytes = bytes, .host = 1, .flags = flags}, &block));
    int file = memfd_create("mapped", MFD_CLOEXEC); /* mapped twice: the device's address is not the CPU's */
    if (file < 0 || ftruncate(file, (off_t)bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    block->host = (uintptr_t)mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    block->device = (uintptr_t)mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    *address = (void *)block->host;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFreeHost(void *address) {
    TRY(check_ready());
    TRY(drain_all());
    return remove_by_address((uintptr_t)address, true);
}

/* Memory of somebody else cannot be mapped a second time, so it has one address; pages of the CPU are not counted. */
EXPORT CUresult cuMemHostRegister(void *address, size_t bytes, unsigned flags) {
    (void)address, (void)bytes, (void)flags;
    return CUDA_ERROR_NOT_SUPPORTED;
}

EXPORT CUresult cuMemHostUnregister(void *address) {
    (void)address;
    return CUDA_ERROR_NOT_SUPPORTED;
}

EXPORT CUresult cuMemHostGetDevicePointer(CUdeviceptr *device, void *host, unsigned flags) {
    (void)flags;
    TRY(check_ready());
    Block *block = find_host((uintptr_t)host, 1);
    if (!block || !(block->flags & CU_MEMHOSTALLOC_DEVICEMAP)) return CUDA_ERROR_INVALID_VALUE;
    *device = block->device + ((uintptr_t)host - block->host);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostGetFlags(unsigned *flags, void *host) {
    Block *block = find_host((uintptr_t)host, 1);
    if (!block) return CUDA_ERROR_INVALID_VALUE;
    *flags = block->flags;
    return CUDA_SUCCESS;
}
