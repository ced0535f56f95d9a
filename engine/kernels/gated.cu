// Gated activations (arXiv 2002.05202): act(gate) · up.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

namespace {

struct Activated {
    float value, slope;
};

__device__ Activated silu(float x) {
    float sigma = 1.0f / (1.0f + expf(-x));
    return {x * sigma, sigma * (1.0f + x * (1.0f - sigma))};
}

// The tanh form (arXiv 1606.08415).
__device__ Activated gelu(float x) {
    constexpr float root = 0.7978846f, cube = 0.044715f;
    float t = tanhf(root * (x + cube * x * x * x));
    float inner = root * (1.0f + 3.0f * cube * x * x);
    return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner};
}

// Which: 0 SiLU, 1 GELU; the same for every thread.
__device__ Activated activate(unsigned which, float x) {
    return which == 0 ? silu(x) : gelu(x);
}

}  // namespace

// A thread is a number.
extern "C" __global__ void gated(
    const float* __restrict__ gate,
    const float* __restrict__ up,
    float* __restrict__ y,
    size_t count,
    unsigned activation
) {
    size_t at = place();
    if (at < count) y[at] = activate(activation, gate[at]).value * up[at];
}

// dup = dy · act(gate), dgate = dy · up · act'(gate). A thread is a number.
extern "C" __global__ void gated_backward(
    const float* __restrict__ gate,
    const float* __restrict__ up,
    const float* __restrict__ dy,
    float* __restrict__ dgate,
    float* __restrict__ dup,
    size_t count,
    unsigned activation
) {
    size_t at = place();
    if (at >= count) return;
    Activated act = activate(activation, gate[at]);
    dup[at] = dy[at] * act.value;
    dgate[at] = dy[at] * up[at] * act.slope;
}
