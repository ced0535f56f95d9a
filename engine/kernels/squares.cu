// The sum of squares, in doubles: a block sums STRETCH numbers, whoever asked adds the blocks' sums in their order.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

extern "C" __global__ void squares(const float* __restrict__ x, double* __restrict__ sums, size_t count) {
    constexpr size_t STRETCH = 1 << 15;
    size_t from = blockIdx.x * STRETCH, to = from + STRETCH < count ? from + STRETCH : count;
    double sum = 0;
    for (size_t i = from + threadIdx.x; i < to; i += blockDim.x) sum += static_cast<double>(x[i]) * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
