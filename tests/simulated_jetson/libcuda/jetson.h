/* What the files of this libcuda share: contexts, blocks of memory and streams of a Jetson that is not there.
 *
 * Host memory plays the device. Where NVIDIA's driver is lenient by luck, this one is strict by intent:
 *   - a stream runs as late as it may, so that whoever reads a result without waiting reads the old one;
 *   - device memory holds NaNs at first, so that whoever relies on zeros finds out;
 *   - mapped host memory has another address on the device, so that whoever mixes the two is refused;
 *   - memory that was freed keeps its address, so that whoever still uses it is refused;
 *   - no call works without a current context, and what a dying context still owns is counted as leaked.
 */
#ifndef JETSON_H
#define JETSON_H

#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

struct CUctx_st {
    bool is_primary;
    int references;
    CUresult fault; /* sticky, as after an illegal access: every later call reports it */
};

typedef struct Block {
    struct Block *next;
    CUcontext context;
    uintptr_t device;   /* what engines are given */
    uintptr_t host;     /* what the CPU uses; 0 for device memory */
    size_t bytes;
    unsigned flags;
} Block;

/* One thing that a stream has to do. */
typedef struct Operation {
    struct Operation *next;
    enum { COPY, FILL, CALL, RECORD, WAIT } kind;
    uintptr_t target, source; /* COPY, FILL */
    size_t target_pitch, source_pitch, width, height;
    uint32_t pattern;
    unsigned pattern_bytes;
    CUhostFn call;
    void *argument;
    CUevent event;
} Operation;

typedef struct {
    Operation *first, **end;
} Queue;

struct CUstream_st {
    CUstream next;
    CUcontext context;
    Queue pending;
    CUgraph capturing;
    bool is_broken; /* the capture was, by a call that may not be captured */
};

/* What a test asks for by name, see jetson_count. */
typedef struct {
    size_t device_bytes, host_bytes, blocks, streams, events, graphs, contexts; /* alive now */
    size_t peak_bytes, leaked_blocks, leaked_bytes, graph_launches, copies, refusals; /* so far */
} Counts;
extern Counts counts;

void lock(void);
void unlock(void);
CUcontext current_context(void);
CUresult check_ready(void); /* initialised, a live context is current, and no fault */
Block *find_device(uintptr_t address, size_t bytes);
Block *find_host(uintptr_t address, size_t bytes);
void free_blocks_of(CUcontext context);
void free_streams_of(CUcontext context);
CUresult drain_all(void);     /* runs every stream to its end */
CUresult refuse_capture(void); /* breaks captures that are under way, as allocating does */
CUresult enqueue(CUstream stream, Operation operation);
size_t limit_bytes(void);

#define TRY(call)                                \
    do {                                         \
        CUresult result_ = (call);               \
        if (result_ != CUDA_SUCCESS) return result_; \
    } while (0)

#endif
