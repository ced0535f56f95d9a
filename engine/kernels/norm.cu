// RMSNorm (arXiv 1910.07467) over rows of `width`.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

// y = x · rstd · weight with rstd = 1 / √(mean(x²) + eps). A block is a row.
extern "C" __global__ void rms_norm(
    const float* __restrict__ x,
    const float* __restrict__ weight,
    float* __restrict__ y,
    float* __restrict__ rstd,
    unsigned width,
    double eps
) {
    size_t row = static_cast<size_t>(blockIdx.x) * width;
    float squares = 0;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) squares += x[row + i] * x[row + i];
    float mean = block_sum(squares) / width;
    float inverse = static_cast<float>(1.0 / sqrt(mean + eps));
    if (threadIdx.x == 0) rstd[blockIdx.x] = inverse;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) y[row + i] = x[row + i] * inverse * weight[i];
}

// With x̂ = x · rstd: dx += rstd · (dy·w − x̂ · mean(dy · w · x̂)). A block is a row.
extern "C" __global__ void rms_norm_backward(
    const float* __restrict__ dy,
    const float* __restrict__ x,
    const float* __restrict__ weight,
    const float* __restrict__ rstd,
    float* __restrict__ dx,
    unsigned width
) {
    size_t row = static_cast<size_t>(blockIdx.x) * width;
    float inverse = rstd[blockIdx.x];
    float dot = 0;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) dot += dy[row + i] * weight[i] * x[row + i];
    float mean = block_sum(dot) * inverse / width;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        dx[row + i] += inverse * (dy[row + i] * weight[i] - x[row + i] * inverse * mean);
    }
}

// Σ dy · x · rstd over rows. Blocks as sum_columns says.
extern "C" __global__ void rms_norm_backward_weight(
    const float* __restrict__ dy,
    const float* __restrict__ x,
    const float* __restrict__ rstd,
    float* __restrict__ dweight,
    unsigned rows,
    unsigned width
) {
    sum_columns([=](size_t i, unsigned t) { return dy[i] * x[i] * rstd[t]; }, dweight, rows, width);
}
