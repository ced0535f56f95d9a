// AdamW (arXiv 1711.05101), its moments in 32 bits or as codes in blocks of THREADS (arXiv 2110.02861): number for
// number what optim/adamw.rs does.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

namespace {

// A step'"'"'s numbers, as optim/adamw.rs names them.
struct Step {
    float grad_factor, decay, lerp, beta2, square, correction, epsilon, size;

    __device__ void apply(float& value, float grad, float& m, float& v) const {
        grad *= grad_factor;
        m += (grad - m) * lerp;
        v = v * beta2 + grad * grad * square;
        value = value * decay - size * (m / (sqrtf(v) / correction + epsilon));
    }
};

// A map of 256 codes in rising order: `book` has their values, then the 255 middles between neighbours; `grid` the
// nearest code to each of 2¹⁶ numbers spread evenly from −1 to 1.
struct CodeMap {
    const float* book;
    const unsigned char* grid;

    __device__ float value(unsigned char code) const { return book[code]; }

    __device__ unsigned char code(float x) const {
        constexpr float half = 32767.5f, small = 1e-3f;
        if (fabsf(x) >= small) {
            float at = rintf((x + 1.0f) * half);
            return grid[at < 65535.0f ? static_cast<unsigned>(at) : 65535u];
        }
        // Below, the grid is coarser than the codes: as many middles as lie under x.
        const float* middles = book + 256;
        unsigned from = 0, to = 255;
        while (from < to) {
            unsigned middle = (from + to) / 2;
            if (middles[middle] < x) from = middle + 1; else to = middle;
        }
        return static_cast<unsigned char>(from);
    }
};

// Replaces a block of moments by codes.
__device__ void encode(CodeMap map, float x, bool here, size_t at, unsigned char* codes, float* absmax) {
    float most = block_max(here ? fabsf(x) : 0.0f);
    if (threadIdx.x == 0) absmax[blockIdx.x] = most;
    if (here) codes[at] = map.code(most > 0 ? x / most : 0.0f);
}

}  // namespace

// A thread is a number.
extern "C" __global__ void adamw(
    float* __restrict__ values,
    const float* __restrict__ grads,
    float* __restrict__ m,
    float* __restrict__ v,
    size_t count,
    float grad_factor, float decay, float lerp, float beta2, float square, float correction, float epsilon, float size
) {
    size_t at = place();
    if (at >= count) return;
    Step{grad_factor, decay, lerp, beta2, square, correction, epsilon, size}.apply(values[at], grads[at], m[at], v[at]);
}

// A block is a block of moments.
extern "C" __global__ void adamw8(
    float* __restrict__ values,
    const float* __restrict__ grads,
    unsigned char* __restrict__ m_codes,
    float* __restrict__ m_absmax,
    unsigned char* __restrict__ v_codes,
    float* __restrict__ v_absmax,
    const float* __restrict__ m_book,
    const unsigned char* __restrict__ m_grid,
    const float* __restrict__ v_book,
    const unsigned char* __restrict__ v_grid,
    size_t count,
    float grad_factor, float decay, float lerp, float beta2, float square, float correction, float epsilon, float size
) {
    size_t at = place();
    bool here = at < count;
    CodeMap m_map{m_book, m_grid}, v_map{v_book, v_grid};
    float m = 0, v = 0;
    if (here) {
        m = m_map.value(m_codes[at]) * m_absmax[blockIdx.x];
        v = v_map.value(v_codes[at]) * v_absmax[blockIdx.x];
        Step{grad_factor, decay, lerp, beta2, square, correction, epsilon, size}.apply(values[at], grads[at], m, v);
    }
    // Its first barrier also stands between the maxima read above and those it writes.
    encode(m_map, m, here, at, m_codes, m_absmax);
    encode(v_map, v, here, at, v_codes, v_absmax);
}
