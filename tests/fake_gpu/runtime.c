/* A CUDA runtime without a GPU: what PyTorch's CUDA build calls, over host memory.

   Kernels and libraries compute nothing; launches, library calls, copies and waits are counted. Memory, copies, streams,
   events and graph capture behave as PyTorch expects. build.py adds a stub for every other symbol that PyTorch asks for. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "driver_types.h"

#define EXPORT __attribute__((visibility("default")))
#define OUT_OF_MEMORY 2
#define BAD_DEVICE 101
#define CAPTURING 900 /* what a wait during the capture of a graph returns */

enum { LAUNCH, BLAS, CUDNN, SOLVER, NCCL, MEMSET, D2D, H2D, D2H, WAIT, MALLOC, GRAPH, KINDS };
static const char *KIND_NAMES = "LAUNCH BLAS CUDNN SOLVER NCCL MEMSET D2D H2D D2H WAIT MALLOC GRAPH";
EXPORT long fake_counts[KINDS];
EXPORT const char *fake_kinds(void) { return KIND_NAMES; }

/* The names of what was counted, in order, while fake_logging is set. */
#define MOST_NAMES 200000
EXPORT int fake_logging = 0;
EXPORT long fake_logged = 0;
EXPORT const char *fake_names[MOST_NAMES];

static void count(int kind, const char *name) {
    __sync_fetch_and_add(&fake_counts[kind], 1);
    if (fake_logging && fake_logged < MOST_NAMES) fake_names[__sync_fetch_and_add(&fake_logged, 1)] = name;
}

static long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value ? atol(value) : otherwise;
}

static void *handle(void) { return calloc(1, 256); }

/* Kernels, by the address of the function that stands for them on the host. */

#define SLOTS 131072
static struct { const void *function; const char *name; } kernels[SLOTS];

static size_t slot(const void *function) {
    size_t at = ((uintptr_t)function >> 4) * 2654435761u % SLOTS;
    while (kernels[at].function && kernels[at].function != function) at = (at + 1) % SLOTS;
    return at;
}

static int launch(const void *function) {
    const char *name = kernels[slot(function)].name;
    count(LAUNCH, name ? name : "?");
    return 0;
}

typedef struct { unsigned x, y, z; } Size;
static __thread struct { Size grid, block; size_t shared; void *stream; } call;

EXPORT void **__cudaRegisterFatBinary(void *binary) { static void *made[2]; return made; }
EXPORT void __cudaRegisterFatBinaryEnd(void **binary) {}
EXPORT void __cudaUnregisterFatBinary(void **binary) {}
EXPORT char __cudaInitModule(void **binary) { return 1; }
EXPORT void __cudaRegisterVar(void **b, char *host, char *device, const char *name, int e, size_t s, int c, int g) {}
EXPORT void __cudaRegisterFunction(
    void **b, const char *host, char *device, const char *name, int l, void *t, void *i, void *bd, void *gd, int *w) {
    size_t at = slot(host);
    kernels[at].function = host;
    kernels[at].name = name;
}
EXPORT unsigned __cudaPushCallConfiguration(Size grid, Size block, size_t shared, void *stream) {
    call.grid = grid, call.block = block, call.shared = shared, call.stream = stream;
    return 0;
}
EXPORT int __cudaPopCallConfiguration(Size *grid, Size *block, size_t *shared, void *stream) {
    *grid = call.grid, *block = call.block, *shared = call.shared, *(void **)stream = call.stream;
    return 0;
}
EXPORT int __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return 0; }
EXPORT int __cudaLaunchKernel(void *f, Size g, Size b, void **a, size_t s, void *stream) { return launch(f); }
EXPORT int cudaLaunchKernel(const void *f, Size g, Size b, void **a, size_t s, void *stream) { return launch(f); }
EXPORT int cudaLaunchKernelExC(const void *config, const void *f, void **a) { return launch(f); }
EXPORT int cuLaunchKernel(void *function) { count(LAUNCH, "compiled at run time"); return 0; }
EXPORT int cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024, found->numRegs = 32, found->ptxVersion = found->binaryVersion = 90;
    return 0;
}
EXPORT int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned u) {
    *n = 2;
    return 0;
}

/* Devices: FAKE_GPUS of them (1), each with FAKE_GPU_FREE MiB free (133,120) of 140 GiB. */

static __thread int current = 0;
static int devices(void) { return setting("FAKE_GPUS", 1); }

EXPORT int cudaGetDeviceCount(int *n) { *n = devices(); return 0; }
EXPORT int cudaGetDevice(int *device) { *device = current; return 0; }
EXPORT int cudaSetDevice(int device) {
    if (device < 0 || device >= devices()) return BAD_DEVICE;
    current = device;
    return 0;
}
EXPORT int cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "fake GPU");
    p->major = 9, p->multiProcessorCount = 132, p->warpSize = 32, p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
    p->totalGlobalMem = 140ull << 30, p->l2CacheSize = 50 << 20, p->textureAlignment = 512;
    p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = 232448, p->sharedMemPerMultiprocessor = 233472;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    return 0;
}
EXPORT int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: *value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrWarpSize: case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    default: *value = 0;
    }
    return 0;
}
EXPORT int cudaDeviceGetPCIBusId(char *id, int n, int device) { snprintf(id, n, "0000:%02d:00.0", device + 1); return 0; }
EXPORT int cudaDeviceGetStreamPriorityRange(int *least, int *most) { *least = 0, *most = -5; return 0; }
EXPORT int cudaDeviceCanAccessPeer(int *can, int one, int other) { *can = 0; return 0; }
EXPORT int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
EXPORT int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
EXPORT const char *cudaGetErrorName(int error) { return "fakeError"; }
EXPORT const char *cudaGetErrorString(int error) {
    static __thread char text[64];
    snprintf(text, sizeof text, error == OUT_OF_MEMORY ? "out of memory" : "fake error %d", error);
    return text;
}

/* Memory: a device's is the host's. */

static void *mapped(size_t size) { /* zeros, taken from the machine when they are first written */
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *made = mmap(0, size ? size : 1, PROT_READ | PROT_WRITE, flags, -1, 0);
    return made == MAP_FAILED ? 0 : made;
}

#define MOST_BLOCKS 65536
static struct { void *start; size_t size; } blocks[MOST_BLOCKS]; /* of all devices together */
static size_t allocated = 0;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

EXPORT int cudaMemGetInfo(size_t *free, size_t *total) {
    size_t there = (size_t)setting("FAKE_GPU_FREE", 133120) << 20;
    *free = there > allocated ? there - allocated : 0, *total = 140ull << 30;
    return 0;
}
EXPORT int cudaMalloc(void **made, size_t size) {
    size_t free, total;
    *made = 0;
    pthread_mutex_lock(&turn);
    cudaMemGetInfo(&free, &total);
    count(MALLOC, "cudaMalloc");
    for (int i = 0; i < MOST_BLOCKS && size <= free && !*made; i++) {
        if (blocks[i].start) continue;
        *made = blocks[i].start = mapped(size);
        allocated += blocks[i].size = size;
    }
    pthread_mutex_unlock(&turn);
    return *made ? 0 : OUT_OF_MEMORY;
}
EXPORT int cudaFree(void *memory) {
    pthread_mutex_lock(&turn);
    for (int i = 0; i < MOST_BLOCKS && memory; i++) {
        if (blocks[i].start != memory) continue;
        munmap(memory, blocks[i].size);
        allocated -= blocks[i].size;
        blocks[i].start = 0;
        break;
    }
    pthread_mutex_unlock(&turn);
    return 0;
}
EXPORT int cudaMallocAsync(void **made, size_t size, void *stream) { return cudaMalloc(made, size); }
EXPORT int cudaFreeAsync(void *memory, void *stream) { return cudaFree(memory); }
EXPORT int cudaDeviceGetDefaultMemPool(void **pool, int device) { *pool = handle(); return 0; }
EXPORT int cudaGetSymbolAddress(void **address, const void *symbol) { static char all[1 << 20]; *address = all; return 0; }

#define MOST_PINNED 4096
static struct { char *start; size_t size; } pinned[MOST_PINNED];
static int pinned_count = 0;

EXPORT int cudaHostAlloc(void **made, size_t size, unsigned flags) {
    *made = mapped(size);
    if (pinned_count < MOST_PINNED) {
        pinned[pinned_count].size = size;
        pinned[pinned_count++].start = *made;
    }
    return *made ? 0 : OUT_OF_MEMORY;
}
EXPORT int cudaFreeHost(void *memory) { return 0; }
EXPORT int cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *pointer) {
    memset(found, 0, sizeof *found);
    found->type = cudaMemoryTypeUnregistered;
    for (int i = 0; i < pinned_count; i++) {
        if ((char *)pointer < pinned[i].start || (char *)pointer >= pinned[i].start + pinned[i].size) continue;
        found->type = cudaMemoryTypeHost;
        found->hostPointer = found->devicePointer = (void *)pointer;
    }
    return 0;
}

/* Copies and waits. Nothing arrives on a device, unless FAKE_GPU_COPIES is 1: as no kernel computes, all numbers there are
   zeros then, and not what other tensors have left. */

static void *capturing = 0; /* the stream whose work is recorded */

static int arrives(int kind) {
    if (kind == cudaMemcpyHostToDevice) count(H2D, "copy to the device");
    else if (kind == cudaMemcpyDeviceToHost) count(D2H, "copy to the host");
    else count(D2D, "copy");
    return kind != cudaMemcpyHostToDevice || setting("FAKE_GPU_COPIES", 0);
}
static int waited(const char *name) {
    if (capturing) return CAPTURING;
    count(WAIT, name);
    return 0;
}

EXPORT int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if (arrives(kind)) memmove(to, from, size);
    return 0;
}
EXPORT int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    if (capturing) return CAPTURING;
    if (arrives(kind)) memmove(to, from, size);
    return waited("cudaMemcpy");
}
EXPORT int cudaMemcpy2DAsync(
    void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, int kind, void *stream) {
    int wanted = arrives(kind);
    for (size_t row = 0; wanted && row < height; row++)
        memmove((char *)to + row * to_pitch, (char *)from + row * from_pitch, width);
    return 0;
}
EXPORT int cudaMemcpyPeerAsync(void *to, int one, const void *from, int other, size_t size, void *stream) {
    count(D2D, "copy");
    memmove(to, from, size);
    return 0;
}
EXPORT int cudaMemsetAsync(void *memory, int value, size_t size, void *stream) {
    count(MEMSET, "memset");
    memset(memory, value, size);
    return 0;
}
EXPORT int cudaMemset(void *memory, int value, size_t size) { return cudaMemsetAsync(memory, value, size, 0); }
EXPORT int cudaStreamSynchronize(void *stream) {
    if (stream != capturing) { /* PyTorch's streams do not block the default one */
        count(WAIT, "cudaStreamSynchronize");
        return 0;
    }
    return waited("cudaStreamSynchronize");
}
EXPORT int cudaDeviceSynchronize(void) { return waited("cudaDeviceSynchronize"); }
EXPORT int cudaEventSynchronize(void *event) { return waited("cudaEventSynchronize"); }

/* Streams, events and graphs: everything is done at once, in the order of the calls. */

EXPORT int cudaStreamCreate(void **stream) { *stream = handle(); return 0; }
EXPORT int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return cudaStreamCreate(stream); }
EXPORT int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return cudaStreamCreate(stream); }
EXPORT int cudaStreamGetPriority(void *stream, int *priority) { *priority = 0; return 0; }
EXPORT int cudaEventCreate(void **event) { *event = handle(); return 0; }
EXPORT int cudaEventCreateWithFlags(void **event, unsigned flags) { return cudaEventCreate(event); }
EXPORT int cudaEventElapsedTime(float *milliseconds, void *start, void *end) { *milliseconds = 25; return 0; }
EXPORT int cudaStreamIsCapturing(void *stream, int *status) { *status = stream && stream == capturing; return 0; }
EXPORT int cudaStreamGetCaptureInfo(
    void *stream, int *status, unsigned long long *id, void *graph, void *nodes, void *edges, size_t *n) {
    *status = stream && stream == capturing;
    if (id) *id = 1;
    if (graph) *(void **)graph = 0;
    if (n) *n = 0;
    return 0;
}
EXPORT int cudaStreamBeginCapture(void *stream, int mode) { capturing = stream; return 0; }
EXPORT int cudaStreamEndCapture(void *stream, void **graph) {
    capturing = 0, *graph = handle();
    return 0;
}
EXPORT int cudaGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) { *made = handle(); return 0; }
EXPORT int cudaGraphGetNodes(void *graph, void *nodes, size_t *n) { *n = 1; return 0; }
EXPORT int cudaGraphLaunch(void *graph, void *stream) { count(GRAPH, "graph"); return 0; }

/* The driver. */

static int nothing(void) { return 0; }
EXPORT int cudaGetDriverEntryPointByVersion(const char *n, void **f, unsigned v, unsigned long long l, int *status) {
    *f = (void *)nothing;
    if (status) *status = 0;
    return 0;
}
EXPORT int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0, *active = 1; return 0; }
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) { *context = handle(); return 0; }
EXPORT int cuCtxGetCurrent(void **context) { static char made[8]; *context = made; return 0; }
EXPORT int cuDeviceGet(int *device, int number) { *device = number; return 0; }
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    return cudaDeviceGetAttribute(value, attribute, device);
}
EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) { *function = handle(); return 0; }
EXPORT int cuModuleLoadData(void **module, const void *image) { *module = handle(); return 0; }

/* cuBLAS, cuDNN and NCCL: what sets a result that PyTorch reads. */

EXPORT int cublasCreate_v2(void **made) { *made = handle(); return 0; }
EXPORT int cublasGetMathMode(void *h, int *mode) { *mode = 0; return 0; }
EXPORT int cublasGetPointerMode_v2(void *h, int *mode) { *mode = 0; return 0; }
EXPORT size_t cublasLtGetVersion(void) { return 130100; }
EXPORT int cublasLtCreate(void **made) { *made = handle(); return 0; }
EXPORT int cublasLtMatmulDescCreate(void **made, int compute, int scale) { *made = handle(); return 0; }
EXPORT int cublasLtMatmulPreferenceCreate(void **made) { *made = handle(); return 0; }
EXPORT int cublasLtMatrixLayoutCreate(void **made, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    *made = handle();
    return 0;
}
typedef struct { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; } Heuristic;
EXPORT int cublasLtMatmulAlgoGetHeuristic(
    void *h, void *o, void *a, void *b, void *c, void *d, void *p, int asked, Heuristic *found, int *n) {
    memset(found, 0, sizeof *found);
    *n = 1;
    return 0;
}
EXPORT int cublasLtMatmul(void) { count(BLAS, "cublasLtMatmul"); return 0; }

EXPORT size_t cudnnGetVersion(void) { return 92400; }
EXPORT int cudnnGetProperty(int which, int *value) { *value = which == 0 ? 9 : which == 1 ? 24 : 0; return 0; }
EXPORT size_t cudnnGetCudartVersion(void) { return 13000; }
EXPORT const char *cudnnGetErrorString(int status) { return "fake cuDNN"; }
EXPORT void cudnnGetLastErrorString(char *text, size_t size) { if (size) text[0] = 0; }
EXPORT int cudnnCreate(void **made) { *made = handle(); return 0; }
EXPORT int cudnnCreateTensorDescriptor(void **made) { *made = handle(); return 0; }
EXPORT int cudnnCreateFilterDescriptor(void **made) { *made = handle(); return 0; }
EXPORT int cudnnCreateActivationDescriptor(void **made) { *made = handle(); return 0; }
EXPORT int cudnnCreateConvolutionDescriptor(void **made) { *made = handle(); return 0; }
EXPORT int cudnnCreatePoolingDescriptor(void **made) { *made = handle(); return 0; }
typedef struct { int algorithm, status; float time; size_t memory; int determinism, math, reserved[3]; } Algorithm;
#define ALGORITHM(NAME) \
    EXPORT int NAME(void *h, void *a, void *b, void *c, void *d, int asked, int *n, Algorithm *found) { \
        memset(found, 0, sizeof *found); \
        found->algorithm = found->determinism = 1, found->math = 3, found->time = 0.1f; \
        *n = 1; \
        return 0; \
    }
ALGORITHM(cudnnGetConvolutionForwardAlgorithm_v7)
ALGORITHM(cudnnGetConvolutionBackwardDataAlgorithm_v7)
ALGORITHM(cudnnGetConvolutionBackwardFilterAlgorithm_v7)
#define WORKSPACE(NAME) \
    EXPORT int NAME(void *h, void *a, void *b, void *c, void *d, int algorithm, size_t *size) { *size = 1 << 20; return 0; }
WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize)
WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize)
WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize)
EXPORT int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    void *h, int m, int o, void *x, void *z, void *y, void *d, void *a, size_t *size) { *size = 1024; return 0; }
EXPORT int cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    void *h, int m, int o, void *x, void *y, void *dy, void *dz, void *dx, void *d, void *a, size_t *size) {
    *size = 1024;
    return 0;
}
EXPORT int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *h, int m, int o, void *a, void *x, size_t *size) {
    *size = 1024;
    return 0;
}
#define DNN(NAME) EXPORT int NAME(void) { count(CUDNN, #NAME); return 0; }
DNN(cudnnConvolutionForward)
DNN(cudnnConvolutionBackwardData)
DNN(cudnnConvolutionBackwardFilter)
DNN(cudnnConvolutionBiasActivationForward)
DNN(cudnnBatchNormalizationForwardTrainingEx)
DNN(cudnnBatchNormalizationBackwardEx)
DNN(cudnnBatchNormalizationForwardInference)
DNN(cudnnBackendExecute)
DNN(cudnnPoolingForward)

EXPORT int ncclGetVersion(int *version) { *version = 22800; return 0; }
EXPORT int ncclCommInitRank(void **made, int n, char id[128], int rank) { *made = handle(); return 0; }
EXPORT int ncclCommGetAsyncError(void *comm, int *error) { *error = 0; return 0; }

#include "stubs.h"
