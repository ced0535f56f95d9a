// What a kernel finds on a card, on a CPU: the names of CUDA C++ that engine/kernels uses, and nothing more.
//
// A block's threads are coroutines. Each runs until it waits, at a barrier or for its warp, and goes on when all it
// waits for have come; blocks run one after the other. A block whose threads wait for each other in vain is an error
// here, where a card would hang or give what it likes.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
// One block runs at a time, so what a block shares may be one object.
#define __shared__ static

struct Index {
    unsigned x, y, z;
};

extern Index threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads();

// Every lane of the warp gives its word and gets all of them.
const std::uint64_t* exchange(std::uint64_t word);

template <class T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t), "a lane hands over 64 bits at most");
    std::uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    std::memcpy(&value, exchange(word) + ((threadIdx.x % 32) ^ static_cast<unsigned>(lanes)), sizeof value);
    return value;
}

template <class To, class From>
To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float __int_as_float(int bits) { return bits_of<float>(bits); }
inline unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }
