// AdamW (arXiv 1711.05101), its moments in 32 bits or as codes in blocks of THREADS (arXiv 2110.02861): number for
// number what optim/adamw.rs does. Values are f32, or bf16.
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

// Values in f32.
struct Whole {
    float* numbers;

    __device__ float load(size_t at) const { return numbers[at]; }
    __device__ void store(size_t at, float x) const { numbers[at] = x; }
};

// Values in bf16, rounded by chance as optim/rounding.rs does it: up as often as a number lies near the upper neighbour.
struct Halved {
    unsigned short* numbers;
    unsigned one, two;

    __device__ float load(size_t at) const { return widened(numbers[at]); }

    __device__ unsigned draw(size_t at) const {
        unsigned x = static_cast<unsigned>(at) ^ one;
        x = ((x ^ x >> 16) * 0x7feb352du) ^ (two + static_cast<unsigned>(static_cast<unsigned long long>(at) >> 32));
        x = (x ^ x >> 15) * 0x846ca68bu;
        return x ^ x >> 16;
    }

    __device__ void store(size_t at, float x) const {
        constexpr unsigned exponent = 0x7f800000u;
        unsigned bits = __float_as_uint(x);
        // What is no number stays none, though only its lower half says so.
        unsigned special = bits >> 16 | ((bits & 0x007fffffu) == 0 ? 0u : 0x40u);
        unsigned finite = (bits + (draw(at) >> 16)) >> 16;
        numbers[at] = static_cast<unsigned short>((bits & exponent) == exponent ? special : finite);
    }
};

// A thread is a number.
template <class Values>
__device__ void step(
    Values values, const float* __restrict__ grads, float* __restrict__ m, float* __restrict__ v, size_t count, Step rule
) {
    size_t at = place();
    if (at >= count) return;
    float value = values.load(at);
    rule.apply(value, grads[at], m[at], v[at]);
    values.store(at, value);
}

// A moment as codes, and the map they belong to.
struct Coded {
    unsigned char* codes;
    float* absmax;
    CodeMap map;

    __device__ float load(size_t at) const { return map.value(codes[at]) * absmax[blockIdx.x]; }

    // Replaces the block's; every thread comes.
    __device__ void store(size_t at, float x, bool here) const {
        float most = block_max(here ? fabsf(x) : 0.0f);
        if (threadIdx.x == 0) absmax[blockIdx.x] = most;
        if (here) codes[at] = map.code(most > 0 ? x / most : 0.0f);
    }
};

// A block is a block of moments.
template <class Values>
__device__ void step8(
    Values values, const float* __restrict__ grads, Coded m_coded, Coded v_coded, size_t count, Step rule
) {
    size_t at = place();
    bool here = at < count;
    float m = 0, v = 0;
    if (here) {
        m = m_coded.load(at);
        v = v_coded.load(at);
        float value = values.load(at);
        rule.apply(value, grads[at], m, v);
        values.store(at, value);
    }
    // Its first barrier also stands between the maxima read above and those it writes.
    m_coded.store(at, m, here);
    v_coded.store(at, v, here);
}

}  // namespace

extern "C" __global__ void adamw(
    float* __restrict__ values,
    const float* __restrict__ grads,
    float* __restrict__ m,
    float* __restrict__ v,
    size_t count,
    float grad_factor, float decay, float lerp, float beta2, float square, float correction, float epsilon, float size
) {
    Step rule{grad_factor, decay, lerp, beta2, square, correction, epsilon, size};
    step(Whole{values}, grads, m, v, count, rule);
}

extern "C" __global__ void adamw_bf16(
    unsigned short* __restrict__ values,
    unsigned one,
    unsigned two,
    const float* __restrict__ grads,
    float* __restrict__ m,
    float* __restrict__ v,
    size_t count,
    float grad_factor, float decay, float lerp, float beta2, float square, float correction, float epsilon, float size
) {
    Step rule{grad_factor, decay, lerp, beta2, square, correction, epsilon, size};
    step(Halved{values, one, two}, grads, m, v, count, rule);
}

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
    Step rule{grad_factor, decay, lerp, beta2, square, correction, epsilon, size};
    Coded m{m_codes, m_absmax, CodeMap{m_book, m_grid}}, v{v_codes, v_absmax, CodeMap{v_book, v_grid}};
    step8(Whole{values}, grads, m, v, count, rule);
}

extern "C" __global__ void adamw8_bf16(
    unsigned short* __restrict__ values,
    unsigned one,
    unsigned two,
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
    Step rule{grad_factor, decay, lerp, beta2, square, correction, epsilon, size};
    Coded m{m_codes, m_absmax, CodeMap{m_book, m_grid}}, v{v_codes, v_absmax, CodeMap{v_book, v_grid}};
    step8(Halved{values, one, two}, grads, m, v, count, rule);
}
