// Dropout whose mask is drawn again rather than kept: ChaCha with 12 rounds, as the CPU draws it (ops/dropout.rs).
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

namespace {

__device__ void quarter(unsigned& a, unsigned& b, unsigned& c, unsigned& d) {
    a += b; d ^= a; d = d << 16 | d >> 16;
    c += d; b ^= c; b = b << 12 | b >> 20;
    a += b; d ^= a; d = d << 8 | d >> 24;
    c += d; b ^= c; b = b << 7 | b >> 25;
}

// Word `at` of a key's stream.
__device__ unsigned chacha12(const unsigned* key, unsigned long long stream, unsigned long long at) {
    unsigned long long block = at / 16;
    unsigned start[16] = {
        0x61707865, 0x3320646e, 0x79622d32, 0x6b206574,
        key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7],
        static_cast<unsigned>(block), static_cast<unsigned>(block >> 32),
        static_cast<unsigned>(stream), static_cast<unsigned>(stream >> 32),
    };
    unsigned s[16];
    for (int i = 0; i < 16; i++) s[i] = start[i];
    for (int round = 0; round < 6; round++) {
        quarter(s[0], s[4], s[8], s[12]);
        quarter(s[1], s[5], s[9], s[13]);
        quarter(s[2], s[6], s[10], s[14]);
        quarter(s[3], s[7], s[11], s[15]);
        quarter(s[0], s[5], s[10], s[15]);
        quarter(s[1], s[6], s[11], s[12]);
        quarter(s[2], s[7], s[8], s[13]);
        quarter(s[3], s[4], s[9], s[14]);
    }
    return s[at % 16] + start[at % 16];
}

}  // namespace

// y = x, or 0 where a draw of 16 bits is below `dropped`, the rest times `kept`. Rows begin at whole words, two draws
// each. A thread is a pair of numbers.
extern "C" __global__ void dropout(
    const float* __restrict__ x,
    float* __restrict__ y,
    const unsigned* __restrict__ key,
    unsigned long long stream,
    size_t pairs,
    unsigned width,
    unsigned dropped,
    float kept
) {
    size_t at = place();
    if (at >= pairs) return;
    unsigned in_row = (width + 1) / 2;
    size_t row = at / in_row;
    unsigned column = 2 * static_cast<unsigned>(at % in_row);
    unsigned word = chacha12(key, stream, at);
    size_t i = row * width + column;
    y[i] = x[i] * ((word & 0xffff) < dropped ? 0.0f : kept);
    if (column + 1 < width) y[i + 1] = x[i + 1] * (word >> 16 < dropped ? 0.0f : kept);
}
