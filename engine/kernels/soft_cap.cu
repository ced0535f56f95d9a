// Soft caps (Gemma 2, arXiv 2408.00118): cap · tanh(x / cap). A thread is a number.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

extern "C" __global__ void soft_cap(float* __restrict__ x, size_t count, float cap) {
    size_t at = place();
    if (at < count) x[at] = capped(x[at], cap);
}

// In place in dy; y is what the forward left.
extern "C" __global__ void soft_cap_backward(
    float* __restrict__ dy,
    const float* __restrict__ y,
    size_t count,
    float cap
) {
    size_t at = place();
    if (at < count) dy[at] *= capped_slope(y[at], cap);
}
