// Operations on whole rows: sums, gathers, factors.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

// sum += term. A thread is a number.
extern "C" __global__ void add(float* __restrict__ sum, const float* __restrict__ term, size_t count) {
    size_t at = place();
    if (at < count) sum[at] += term[at];
}

// Adds slices of `length` to as many of a wider tensor, `stride` apart and `from` numbers in. A thread is a number.
extern "C" __global__ void add_slices(
    float* __restrict__ sum,
    const float* __restrict__ term,
    size_t count,
    size_t length,
    size_t stride,
    size_t from
) {
    size_t at = place();
    if (at < count) sum[at / length * stride + from + at % length] += term[at];
}

// y[t, :] += bias. A thread is a number.
extern "C" __global__ void add_bias(
    float* __restrict__ y,
    const float* __restrict__ bias,
    size_t count,
    unsigned width
) {
    size_t at = place();
    if (at < count) y[at] += bias[at % width];
}

// y[t, :] *= factor. A thread is a number.
extern "C" __global__ void scale_columns(
    float* __restrict__ y,
    const float* __restrict__ factor,
    size_t count,
    unsigned width
) {
    size_t at = place();
    if (at < count) y[at] *= factor[at % width];
}

// Σ_t dy[t, :]. Blocks as sum_columns says.
extern "C" __global__ void sum_rows(
    const float* __restrict__ dy,
    float* __restrict__ sums,
    unsigned rows,
    unsigned width
) {
    sum_columns([=](size_t i, unsigned) { return dy[i]; }, sums, rows, width);
}

// Σ_t dy[t, :] · y[t, :]. Blocks as sum_columns says.
extern "C" __global__ void dot_rows(
    const float* __restrict__ dy,
    const float* __restrict__ y,
    float* __restrict__ sums,
    unsigned rows,
    unsigned width
) {
    sum_columns([=](size_t i, unsigned) { return dy[i] * y[i]; }, sums, rows, width);
}

// Each row's a · b. A warp is a row.
extern "C" __global__ void dot_each_row(
    const float* __restrict__ a,
    const float* __restrict__ b,
    float* __restrict__ dots,
    unsigned rows,
    unsigned width
) {
    unsigned row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) return;
    size_t from = static_cast<size_t>(row) * width;
    float dot = 0;
    for (unsigned i = threadIdx.x % WARP; i < width; i += WARP) dot += a[from + i] * b[from + i];
    dot = warp_sum(dot);
    if (threadIdx.x % WARP == 0) dots[row] = dot;
}

namespace {

// rows[i, :] = table[ids[i], :]. A block is a row.
template <class Number>
__device__ void gather_row(const Number* table, const unsigned* ids, float* rows, unsigned width) {
    const Number* from = table + static_cast<size_t>(ids[blockIdx.x]) * width;
    float* to = rows + static_cast<size_t>(blockIdx.x) * width;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) to[i] = widened(from[i]);
}

}  // namespace

extern "C" __global__ void gather(
    const float* __restrict__ table,
    const unsigned* __restrict__ ids,
    float* __restrict__ rows,
    unsigned width
) {
    gather_row(table, ids, rows, width);
}

extern "C" __global__ void gather_bf16(
    const unsigned short* __restrict__ table,
    const unsigned* __restrict__ ids,
    float* __restrict__ rows,
    unsigned width
) {
    gather_row(table, ids, rows, width);
}

// dtable[ids[i], :] += dy[i, :]. A block is a row of dy; the first with an id adds those of all others with it, in
// order.
extern "C" __global__ void scatter_add(
    float* __restrict__ dtable,
    const unsigned* __restrict__ ids,
    const float* __restrict__ dy,
    unsigned rows,
    unsigned width
) {
    unsigned id = ids[blockIdx.x];
    float earlier = 0;
    for (unsigned i = threadIdx.x; i < blockIdx.x; i += blockDim.x) earlier = ids[i] == id ? 1.0f : earlier;
    if (block_max(earlier) > 0) return;
    float* to = dtable + static_cast<size_t>(id) * width;
    for (unsigned row = blockIdx.x; row < rows; row++) {
        if (ids[row] != id) continue;
        const float* from = dy + static_cast<size_t>(row) * width;
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) to[i] += from[i];
    }
}
