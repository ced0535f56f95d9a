// Rotary positions (arXiv 2104.09864), Hugging Face's pairing.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

// Turns the first 2 · half numbers of every head by its token's angles, in place; sign −1 turns back. Number i of a
// head is paired with i + half. A thread is a pair.
extern "C" __global__ void rotate(
    float* __restrict__ x,
    const float* __restrict__ cos,
    const float* __restrict__ sin,
    size_t pairs,
    unsigned heads,
    unsigned head_dim,
    unsigned half,
    float sign
) {
    size_t at = place();
    if (at >= pairs) return;
    size_t angle = at / (static_cast<size_t>(heads) * half) * half + at % half;
    float* low = x + at / half * head_dim + at % half;
    float* high = low + half;
    float a = *low, b = *high, c = cos[angle], s = sign * sin[angle];
    *low = a * c - b * s;
    *high = b * c + a * s;
}
