/* What the device does and in which order: copies, fills and calls on streams, recorded in graphs where asked to. */

#include "jetson.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct CUevent_st {
    CUstream stream; /* where it was recorded */
    bool is_pending;
    double time_s;
};

struct CUgraph_st {
    Queue operations;
};

static CUstream streams;
static struct CUstream_st legacy = {.pending = {NULL, &legacy.pending.first}}; /* stream 0, which never waits */

static CUstream known(CUstream stream) { return (uintptr_t)stream <= 2 ? &legacy : stream; }

static void append(Queue *queue, Operation operation) {
    Operation *last = malloc(sizeof *last);
    *last = operation;
    last->next = NULL;
    *queue->end = last;
    queue->end = &last->next;
}

static void clear(Queue *queue) {
    for (Operation *next, *operation = queue->first; operation; operation = next) {
        next = operation->next;
        free(operation);
    }
    *queue = (Queue){NULL, &queue->first};
}

static Queue *copy_of(const Queue *queue, Queue *copy) {
    *copy = (Queue){NULL, &copy->first};
    for (const Operation *operation = queue->first; operation; operation = operation->next) append(copy, *operation);
    return copy;
}

/* ---- running ---- */

static void drain(CUstream stream);

static void run(const Operation *operation) {
    switch (operation->kind) {
    case COPY:
        for (size_t row = 0; row < operation->height; row++)
            memmove((char *)operation->target + row * operation->target_pitch,
                    (const char *)operation->source + row * operation->source_pitch, operation->width);
        counts.copies++;
        break;
    case FILL:
        for (size_t at = 0; at < operation->width; at += operation->pattern_bytes)
            memcpy((char *)operation->target + at, &operation->pattern, operation->pattern_bytes);
        break;
    case CALL: operation->call(operation->argument); break;
    case RECORD: {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        operation->event->time_s = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
        operation->event->is_pending = false;
        break;
    }
    case WAIT:
        if (operation->event->is_pending) drain(operation->event->stream);
    }
}

/* Without the lock while something runs: a call may want Python, whose thread may want the lock. */
static void drain(CUstream stream) {
    for (;;) {
        lock();
        Operation *operation = stream->pending.first;
        if (operation) {
            stream->pending.first = operation->next;
            if (!operation->next) stream->pending.end = &stream->pending.first;
        }
        unlock();
        if (!operation) return;
        if (!stream->context || !stream->context->fault) run(operation);
        free(operation);
    }
}

CUresult drain_all(void) {
    for (CUstream stream = streams; stream; stream = stream->next) drain(stream);
    return current_context() ? current_context()->fault : CUDA_SUCCESS;
}

CUresult enqueue(CUstream stream, Operation operation) {
    TRY(check_ready());
    stream = known(stream);
    if (stream == &legacy) { /* waits for all other streams, and is waited for */
        TRY(drain_all());
        run(&operation);
        return current_context()->fault;
    }
    lock();
    append(stream->capturing ? &stream->capturing->operations : &stream->pending, operation);
    unlock();
    return CUDA_SUCCESS;
}

CUresult refuse_capture(void) {
    CUresult result = CUDA_SUCCESS;
    for (CUstream stream = streams; stream; stream = stream->next)
        if (stream->capturing) {
            stream->is_broken = true;
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    return result;
}

/* ---- copies and fills ---- */

static CUresult copy(CUstream stream, Operation operation, bool is_target_device, bool is_source_device) {
    operation.kind = COPY;
    if (!operation.width || !operation.height) return CUDA_SUCCESS;
    size_t target_bytes = operation.target_pitch * (operation.height - 1) + operation.width;
    size_t source_bytes = operation.source_pitch * (operation.height - 1) + operation.width;
    if (is_target_device && !find_device(operation.target, target_bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (is_source_device && !find_device(operation.source, source_bytes)) return CUDA_ERROR_INVALID_VALUE;
    bool is_pageable = (!is_target_device && !find_host(operation.target, target_bytes)) ||
                       (!is_source_device && !find_host(operation.source, source_bytes));
    TRY(enqueue(stream, operation));
    if (is_pageable && !known(stream)->capturing) drain(known(stream)); /* the driver must not come back to it later */
    return check_ready();
}

static Operation line(uintptr_t target, uintptr_t source, size_t bytes) {
    return (Operation){.target = target, .source = source, .width = bytes, .height = 1};
}

EXPORT CUresult cuMemcpyHtoD(CUdeviceptr target, const void *source, size_t bytes) {
    return copy(NULL, line(target, (uintptr_t)source, bytes), true, false);
}

EXPORT CUresult cuMemcpyDtoH(void *target, CUdeviceptr source, size_t bytes) {
    return copy(NULL, line((uintptr_t)target, source, bytes), false, true);
}

EXPORT CUresult cuMemcpyDtoD(CUdeviceptr target, CUdeviceptr source, size_t bytes) {
    return copy(NULL, line(target, source, bytes), true, true);
}

EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t bytes, CUstream stream) {
    return copy(stream, line(target, (uintptr_t)source, bytes), true, false);
}

EXPORT CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t bytes, CUstream stream) {
    return copy(stream, line((uintptr_t)target, source, bytes), false, true);
}

EXPORT CUresult cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream) {
    return copy(stream, line(target, source, bytes), true, true);
}

EXPORT CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *what, CUstream stream) {
    bool to_host = what->dstMemoryType == CU_MEMORYTYPE_HOST, from_host = what->srcMemoryType == CU_MEMORYTYPE_HOST;
    if (what->dstMemoryType == CU_MEMORYTYPE_ARRAY || what->srcMemoryType == CU_MEMORYTYPE_ARRAY)
        return CUDA_ERROR_NOT_SUPPORTED;
    size_t width = what->WidthInBytes;
    size_t target_pitch = what->dstPitch ? what->dstPitch : width, source_pitch = what->srcPitch ? what->srcPitch : width;
    if (target_pitch < width || source_pitch < width) return CUDA_ERROR_INVALID_VALUE;
    uintptr_t target = to_host ? (uintptr_t)what->dstHost : what->dstDevice;
    uintptr_t source = from_host ? (uintptr_t)what->srcHost : what->srcDevice;
    Operation operation = {
        .target = target + what->dstY * target_pitch + what->dstXInBytes, .target_pitch = target_pitch,
        .source = source + what->srcY * source_pitch + what->srcXInBytes, .source_pitch = source_pitch,
        .width = width, .height = what->Height,
    };
    return copy(stream, operation, !to_host, !from_host);
}

EXPORT CUresult cuMemcpy2D(const CUDA_MEMCPY2D *what) { return cuMemcpy2DAsync(what, NULL); }
EXPORT CUresult cuMemcpy2DUnaligned(const CUDA_MEMCPY2D *what) { return cuMemcpy2DAsync(what, NULL); }

static CUresult fill(CUstream stream, CUdeviceptr target, uint32_t pattern, unsigned pattern_bytes, size_t count) {
    size_t bytes = count * pattern_bytes;
    if (!find_device(target, bytes)) return CUDA_ERROR_INVALID_VALUE;
    Operation operation = {.kind = FILL, .target = target, .width = bytes};
    operation.pattern = pattern;
    operation.pattern_bytes = pattern_bytes;
    return enqueue(stream, operation);
}

EXPORT CUresult cuMemsetD8(CUdeviceptr t, unsigned char p, size_t n) { return fill(NULL, t, p, 1, n); }
EXPORT CUresult cuMemsetD16(CUdeviceptr t, unsigned short p, size_t n) { return fill(NULL, t, p, 2, n); }
EXPORT CUresult cuMemsetD32(CUdeviceptr t, unsigned p, size_t n) { return fill(NULL, t, p, 4, n); }
EXPORT CUresult cuMemsetD8Async(CUdeviceptr t, unsigned char p, size_t n, CUstream s) { return fill(s, t, p, 1, n); }
EXPORT CUresult cuMemsetD16Async(CUdeviceptr t, unsigned short p, size_t n, CUstream s) { return fill(s, t, p, 2, n); }
EXPORT CUresult cuMemsetD32Async(CUdeviceptr t, unsigned p, size_t n, CUstream s) { return fill(s, t, p, 4, n); }

/* ---- streams and events ---- */

EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    (void)flags;
    TRY(check_ready());
    CUstream made = calloc(1, sizeof *made);
    *made = (struct CUstream_st){.context = current_context(), .pending = {NULL, &made->pending.first}};
    lock();
    made->next = streams;
    streams = made;
    counts.streams++;
    unlock();
    *stream = made;
    return CUDA_SUCCESS;
}

static void remove_stream(CUstream *place) {
    CUstream stream = *place;
    *place = stream->next;
    counts.streams--;
    clear(&stream->pending);
    free(stream);
}

EXPORT CUresult cuStreamDestroy(CUstream stream) {
    TRY(check_ready());
    drain(stream);
    lock();
    for (CUstream *place = &streams; *place; place = &(*place)->next)
        if (*place == stream) {
            remove_stream(place);
            break;
        }
    unlock();
    return CUDA_SUCCESS;
}

void free_streams_of(CUcontext context) {
    lock();
    for (CUstream *place = &streams; *place;)
        if ((*place)->context == context)
            remove_stream(place);
        else
            place = &(*place)->next;
    unlock();
}

EXPORT CUresult cuStreamSynchronize(CUstream stream) {
    TRY(check_ready());
    if (known(stream)->capturing) return refuse_capture();
    if (known(stream) == &legacy) return drain_all();
    drain(stream);
    return check_ready();
}

EXPORT CUresult cuStreamQuery(CUstream stream) { return cuStreamSynchronize(stream); }

EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    (void)flags;
    return enqueue(stream, (Operation){.kind = WAIT, .event = event});
}

EXPORT CUresult cuLaunchHostFunc(CUstream stream, CUhostFn call, void *argument) {
    return enqueue(stream, (Operation){.kind = CALL, .call = call, .argument = argument});
}

EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags) {
    (void)flags;
    TRY(check_ready());
    *event = calloc(1, sizeof **event);
    counts.events++;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy(CUevent event) {
    TRY(check_ready());
    if (event->is_pending) drain(event->stream);
    free(event);
    counts.events--;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) {
    TRY(check_ready());
    event->stream = known(stream);
    event->is_pending = true;
    return enqueue(stream, (Operation){.kind = RECORD, .event = event});
}

EXPORT CUresult cuEventSynchronize(CUevent event) {
    if (event->is_pending) drain(event->stream);
    return check_ready();
}

EXPORT CUresult cuEventQuery(CUevent event) { return cuEventSynchronize(event); }

EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    if (start->is_pending || end->is_pending) return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)(1e3 * (end->time_s - start->time_s));
    return CUDA_SUCCESS;
}

/* ---- graphs ---- */

static CUgraph make_graph(const Queue *operations) {
    CUgraph graph = malloc(sizeof *graph);
    copy_of(operations, &graph->operations);
    counts.graphs++;
    return graph;
}

static CUresult free_graph(CUgraph graph) {
    clear(&graph->operations);
    free(graph);
    counts.graphs--;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    (void)mode;
    TRY(check_ready());
    if (getenv("SIMULATED_JETSON_WITHOUT_GRAPHS")) return CUDA_ERROR_NOT_SUPPORTED;
    if (known(stream) == &legacy || stream->capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    Queue nothing = {NULL, &nothing.first};
    stream->capturing = make_graph(&nothing);
    stream->is_broken = false;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    CUstream asked = known(stream);
    *status = !asked->capturing     ? CU_STREAM_CAPTURE_STATUS_NONE
              : asked->is_broken    ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                    : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    *graph = stream->capturing;
    stream->capturing = NULL;
    if (!*graph) return CUDA_ERROR_INVALID_VALUE;
    if (!stream->is_broken) return CUDA_SUCCESS;
    free_graph(*graph);
    *graph = NULL;
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
    (void)flags;
    TRY(check_ready());
    *executable = (CUgraphExec)make_graph(&graph->operations);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    counts.graph_launches++;
    for (const Operation *operation = ((CUgraph)executable)->operations.first; operation; operation = operation->next)
        TRY(enqueue(stream, *operation));
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphDestroy(CUgraph graph) { return free_graph(graph); }
EXPORT CUresult cuGraphExecDestroy(CUgraphExec executable) { return free_graph((CUgraph)executable); }
