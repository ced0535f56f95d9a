// What kernels share. Compiled three ways from one source: by NVRTC when a card is opened, by nvcc in
// scripts/compile-kernels, and by a C++ compiler for a CPU through host/device.h, where tests run it.
//
// Blocks have THREADS threads. Sums over a block go through warps in a fixed order, so a kernel gives the same bits
// every time; there are no atomics.
#ifndef FLEETUNE_DEVICE
#define FLEETUNE_DEVICE

#ifndef __CUDACC__
#include "host/device.h"
#endif

constexpr unsigned WARP = 32;
constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / WARP;

// This thread's place in a one-dimensional grid.
__device__ inline size_t place() {
    return static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline float negative_infinity() {
    return __int_as_float(static_cast<int>(0xff800000u));
}

template <class T>
__device__ inline T warp_sum(T x) {
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
    return x;
}

// The sum over a block; every thread gets it, and every thread must come.
template <class T>
__device__ inline T block_sum(T x) {
    __shared__ T parts[WARPS];
    x = warp_sum(x);
    __syncthreads();  // Nobody still reads the parts of a sum before this one.
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    T sum = parts[0];
    for (unsigned warp = 1; warp < WARPS; warp++) sum += parts[warp];
    return sum;
}

// The largest over a block, as block_sum.
__device__ inline float block_max(float x) {
    __shared__ float parts[WARPS];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    float largest = parts[0];
    for (unsigned warp = 1; warp < WARPS; warp++) largest = fmaxf(largest, parts[warp]);
    return largest;
}

// Sums over rows into one row: a block has a warp's width of columns, and each of its warps every WARPS-th row.
// `term(i, t)` gives number i of the matrix, which lies in row t.
template <class Term>
__device__ inline void sum_columns(Term term, float* sums, unsigned rows, unsigned width) {
    __shared__ float strands[WARPS][WARP];
    unsigned lane = threadIdx.x % WARP, strand = threadIdx.x / WARP;
    unsigned column = blockIdx.x * WARP + lane;
    float sum = 0;
    if (column < width) {
        for (unsigned t = strand; t < rows; t += WARPS) sum += term(static_cast<size_t>(t) * width + column, t);
    }
    strands[strand][lane] = sum;
    __syncthreads();
    if (strand == 0 && column < width) {
        for (unsigned other = 1; other < WARPS; other++) sum += strands[other][lane];
        sums[column] = sum;
    }
}

// A number as f32: itself, or one of bf16.
__device__ inline float widened(float x) { return x; }
__device__ inline float widened(unsigned short x) {
    return __int_as_float(static_cast<int>(static_cast<unsigned>(x) << 16));
}

// c · tanh(x / c).
__device__ inline float capped(float x, float cap) {
    return cap * tanhf(x / cap);
}

// The slope of `capped`, from its value.
__device__ inline float capped_slope(float value, float cap) {
    float t = value / cap;
    return 1.0f - t * t;
}

#endif
