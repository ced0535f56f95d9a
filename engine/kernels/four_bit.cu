// Numbers of four bits, as bitsandbytes holds them: two codes a byte, the first in the upper half, and a largest
// magnitude for each block (QLoRA, arXiv 2305.14314), which may be held in eight bits itself.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

namespace {

constexpr unsigned CONSTANTS = 256;  // Block constants that share one second constant.

struct Plain {
    const float* absmax;
    __device__ float operator()(size_t block) const { return absmax[block]; }
};

struct Double {
    const unsigned char* codes;
    const float* map;
    const float* absmax;
    float offset;
    __device__ float operator()(size_t block) const { return map[codes[block]] * absmax[block / CONSTANTS] + offset; }
};

__device__ void store(float* to, float x) { *to = x; }

// To bf16: the nearest, ties to even.
__device__ void store(unsigned short* to, float x) {
    unsigned bits = __float_as_uint(x);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    *to = static_cast<unsigned short>(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Numbers from..from + count. A thread is a number.
template <class Constant, class Out>
__device__ void unpack(
    const unsigned char* codes, const float* book, Constant constant, Out* out, size_t from, size_t count, unsigned block
) {
    size_t i = place();
    if (i >= count) return;
    size_t at = from + i;
    unsigned byte = codes[at / 2];
    store(out + i, book[at % 2 == 0 ? byte >> 4 : byte & 15] * constant(at / block));
}

}  // namespace

extern "C" __global__ void four_bit_f32(
    const unsigned char* __restrict__ codes, const float* __restrict__ book, const float* __restrict__ absmax,
    float* __restrict__ out, size_t from, size_t count, unsigned block
) {
    unpack(codes, book, Plain{absmax}, out, from, count, block);
}

extern "C" __global__ void four_bit_bf16(
    const unsigned char* __restrict__ codes, const float* __restrict__ book, const float* __restrict__ absmax,
    unsigned short* __restrict__ out, size_t from, size_t count, unsigned block
) {
    unpack(codes, book, Plain{absmax}, out, from, count, block);
}

extern "C" __global__ void four_bit_double_f32(
    const unsigned char* __restrict__ codes, const float* __restrict__ book,
    const unsigned char* __restrict__ absmax_codes, const float* __restrict__ map, const float* __restrict__ absmax,
    float offset, float* __restrict__ out, size_t from, size_t count, unsigned block
) {
    unpack(codes, book, Double{absmax_codes, map, absmax, offset}, out, from, count, block);
}

extern "C" __global__ void four_bit_double_bf16(
    const unsigned char* __restrict__ codes, const float* __restrict__ book,
    const unsigned char* __restrict__ absmax_codes, const float* __restrict__ map, const float* __restrict__ absmax,
    float offset, unsigned short* __restrict__ out, size_t from, size_t count, unsigned block
) {
    unpack(codes, book, Double{absmax_codes, map, absmax, offset}, out, from, count, block);
}
