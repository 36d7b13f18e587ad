/* The one device, its contexts, and what a test may ask about them; knows neither memory nor streams. */

#include "jetson.h"

#include "cudaProfiler.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

Counts counts;
static pthread_mutex_t mutex;
static bool is_initialised;
static struct CUctx_st primary = {.is_primary = true};
static _Thread_local CUcontext stack[MAX_DEPTH];
static _Thread_local int depth;

__attribute__((constructor)) static void make_mutex(void) {
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&mutex, &recursive);
}

void lock(void) { pthread_mutex_lock(&mutex); }
void unlock(void) { pthread_mutex_unlock(&mutex); }

CUcontext current_context(void) { return depth ? stack[depth - 1] : NULL; }

CUresult check_ready(void) {
    CUcontext context = current_context();
    if (!is_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (!context || context->references == 0) return CUDA_ERROR_INVALID_CONTEXT;
    return context->fault;
}

/* ---- for tests ---- */

EXPORT size_t jetson_count(const char *name) {
    static const struct { const char *name; size_t *value; } table[] = {
        {"device_bytes", &counts.device_bytes}, {"host_bytes", &counts.host_bytes}, {"blocks", &counts.blocks},
        {"streams", &counts.streams}, {"events", &counts.events}, {"graphs", &counts.graphs},
        {"contexts", &counts.contexts}, {"peak_bytes", &counts.peak_bytes}, {"leaked_blocks", &counts.leaked_blocks},
        {"leaked_bytes", &counts.leaked_bytes}, {"graph_launches", &counts.graph_launches},
        {"copies", &counts.copies}, {"refusals", &counts.refusals},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(name, table[i].name)) return *table[i].value;
    return (size_t)-1;
}

/* As an illegal access would: everything in the current context fails from now on. */
EXPORT void jetson_fault(void) {
    if (current_context()) current_context()->fault = CUDA_ERROR_ILLEGAL_ADDRESS;
}

/* ---- the device ---- */

EXPORT CUresult cuInit(unsigned flags) {
    is_initialised = true;
    return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count) {
    *count = 1;
    return is_initialised ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    (void)device;
    snprintf(name, (size_t)length, "Orin (simulated)");
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    (void)device;
    *bytes = limit_bytes();
    return CUDA_SUCCESS;
}

static CUresult compute_capability(int *major, int *minor) {
    const char *text = getenv("SIMULATED_COMPUTE_CAPABILITY");
    return sscanf(text ? text : "8.7", "%d.%d", major, minor) == 2 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    (void)device;
    return compute_capability(major, minor);
}

EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    int major, minor;
    (void)device;
    TRY(compute_capability(&major, &minor));
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = minor; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 8; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED: *value = 1; break;
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult error, const char **text) {
    switch (error) {
    case CUDA_SUCCESS: *text = "no error"; break;
    case CUDA_ERROR_INVALID_VALUE: *text = "invalid argument"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
    case CUDA_ERROR_NOT_INITIALIZED: *text = "initialization error"; break;
    case CUDA_ERROR_INVALID_DEVICE: *text = "invalid device ordinal"; break;
    case CUDA_ERROR_INVALID_CONTEXT: *text = "invalid device context"; break;
    case CUDA_ERROR_ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
    case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: *text = "operation failed due to a previous error during capture"; break;
    case CUDA_ERROR_NOT_SUPPORTED: *text = "operation not supported"; break;
    default: *text = "unrecognized error code";
    }
    return CUDA_SUCCESS;
}

/* ---- contexts ---- */

static void release(CUcontext context) {
    if (--context->references > 0) return;
    drain_all();
    free_streams_of(context);
    free_blocks_of(context);
    context->fault = CUDA_SUCCESS;
    counts.contexts--;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    (void)device;
    if (!is_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    lock();
    if (primary.references++ == 0) counts.contexts++;
    unlock();
    *context = &primary;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    (void)device;
    if (primary.references == 0) return CUDA_ERROR_INVALID_CONTEXT;
    release(&primary);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent(CUcontext context) {
    if (depth == MAX_DEPTH) return CUDA_ERROR_INVALID_VALUE;
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent(CUcontext *context) {
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    CUcontext popped = stack[--depth];
    if (context) *context = popped;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxCreate(CUcontext *context, unsigned flags, CUdevice device) {
    (void)flags, (void)device;
    if (!is_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    *context = calloc(1, sizeof **context); /* never freed: a stack may still hold it */
    (*context)->references = 1;
    lock();
    counts.contexts++;
    unlock();
    return cuCtxPushCurrent(*context);
}

EXPORT CUresult cuCtxDetach(CUcontext context) {
    if (depth && stack[depth - 1] == context) depth--;
    release(context);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device) {
    *device = 0;
    return check_ready();
}

EXPORT CUresult cuCtxSynchronize(void) {
    TRY(check_ready());
    return drain_all();
}

/* ---- what pycuda links against and nothing here needs ---- */

EXPORT CUresult unsupported(void) { return CUDA_ERROR_NOT_SUPPORTED; }

#define UNSUPPORTED(name) __asm__(".globl " #name "\n.set " #name ", unsupported")

#define ARRAYS(X) X(cuArray3DCreate_v2); X(cuArray3DGetDescriptor_v2); X(cuArrayCreate_v2); X(cuArrayDestroy); \
    X(cuArrayGetDescriptor_v2); X(cuMemcpyAtoA_v2); X(cuMemcpyAtoD_v2); X(cuMemcpyAtoH_v2); X(cuMemcpyDtoA_v2); \
    X(cuMemcpyHtoA_v2); X(cuMemcpy3D_v2); X(cuMemcpy3DAsync_v2); X(cuMemcpy3DPeer); X(cuMemcpy3DPeerAsync); \
    X(cuMemcpyPeer); X(cuMemcpyPeerAsync); X(cuMemAllocManaged); X(cuMemAllocPitch_v2); X(cuMemGetAddressRange_v2)
#define TEXTURES(X) X(cuSurfRefGetArray); X(cuSurfRefSetArray); X(cuTexRefCreate); X(cuTexRefDestroy); \
    X(cuTexRefGetAddressMode); X(cuTexRefGetAddress_v2); X(cuTexRefGetArray); X(cuTexRefGetFilterMode); \
    X(cuTexRefGetFlags); X(cuTexRefGetFormat); X(cuTexRefSetAddress2D_v3); X(cuTexRefSetAddressMode); \
    X(cuTexRefSetAddress_v2); X(cuTexRefSetArray); X(cuTexRefSetFilterMode); X(cuTexRefSetFlags); X(cuTexRefSetFormat)
#define KERNELS(X) X(cuFuncGetAttribute); X(cuFuncSetAttribute); X(cuFuncSetBlockShape); X(cuFuncSetCacheConfig); \
    X(cuFuncSetSharedSize); X(cuLaunch); X(cuLaunchGrid); X(cuLaunchGridAsync); X(cuLaunchKernel); \
    X(cuLinkAddData_v2); X(cuLinkAddFile_v2); X(cuLinkComplete); X(cuLinkCreate_v2); X(cuLinkDestroy); \
    X(cuModuleGetFunction); X(cuModuleGetGlobal_v2); X(cuModuleGetSurfRef); X(cuModuleGetTexRef); X(cuModuleLoad); \
    X(cuModuleLoadData); X(cuModuleLoadDataEx); X(cuModuleUnload); X(cuParamSetSize); X(cuParamSetTexRef); \
    X(cuParamSetf); X(cuParamSeti); X(cuParamSetv)
#define SETTINGS(X) X(cuCtxAttach); X(cuCtxDisablePeerAccess); X(cuCtxEnablePeerAccess); X(cuCtxGetApiVersion); \
    X(cuCtxGetCacheConfig); X(cuCtxGetLimit); X(cuCtxGetSharedMemConfig); X(cuCtxSetCacheConfig); X(cuCtxSetLimit); \
    X(cuCtxSetSharedMemConfig); X(cuDeviceCanAccessPeer); X(cuDeviceGetByPCIBusId); X(cuDeviceGetPCIBusId); \
    X(cuIpcCloseMemHandle); X(cuIpcGetEventHandle); X(cuIpcGetMemHandle); X(cuIpcOpenEventHandle); \
    X(cuIpcOpenMemHandle_v2); X(cuProfilerInitialize); X(cuProfilerStart); X(cuProfilerStop); X(cuStreamAttachMemAsync); \
    X(cuMemsetD2D8_v2); X(cuMemsetD2D8Async); X(cuMemsetD2D16_v2); X(cuMemsetD2D16Async); X(cuMemsetD2D32_v2); \
    X(cuMemsetD2D32Async)
ARRAYS(UNSUPPORTED);
TEXTURES(UNSUPPORTED);
KERNELS(UNSUPPORTED);
SETTINGS(UNSUPPORTED);
