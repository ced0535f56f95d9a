// Every kernel, callable by name on a CPU. A kernel that is missing here is missing in the tests.
#include "launch.h"

#include "../adamw.cu"
#include "../attention.cu"
#include "../cross_entropy.cu"
#include "../dropout.cu"
#include "../four_bit.cu"
#include "../gated.cu"
#include "../norm.cu"
#include "../rope.cu"
#include "../rows.cu"
#include "../soft_cap.cu"
#include "../squares.cu"

// Not a card's: half of the threads wait for a barrier that the others never come to, which a test wants told.
__global__ void half_a_barrier(unsigned) {
    if (threadIdx.x < blockDim.x / 2) __syncthreads();
}

#define KERNEL(name)                                                                                            \
    extern "C" const char* host_##name(                                                                         \
        unsigned blocks, unsigned threads, void* const* arguments, const std::size_t* sizes, std::size_t count  \
    ) {                                                                                                         \
        return launch(name, blocks, threads, arguments, sizes, count);                                          \
    }

KERNEL(adamw)
KERNEL(adamw8)
KERNEL(adamw8_bf16)
KERNEL(adamw_bf16)
KERNEL(attention_softmax)
KERNEL(attention_backward)
KERNEL(cross_entropy)
KERNEL(cross_entropy_backward)
KERNEL(log_probs)
KERNEL(log_probs_backward)
KERNEL(log_collisions)
KERNEL(dropout)
KERNEL(four_bit_f32)
KERNEL(four_bit_bf16)
KERNEL(four_bit_double_f32)
KERNEL(four_bit_double_bf16)
KERNEL(gated)
KERNEL(gated_backward)
KERNEL(rms_norm)
KERNEL(rms_norm_backward)
KERNEL(rms_norm_backward_weight)
KERNEL(rotate)
KERNEL(add)
KERNEL(add_slices)
KERNEL(add_bias)
KERNEL(scale_columns)
KERNEL(sum_rows)
KERNEL(dot_rows)
KERNEL(dot_each_row)
KERNEL(gather)
KERNEL(gather_bf16)
KERNEL(scatter_add)
KERNEL(soft_cap)
KERNEL(soft_cap_backward)
KERNEL(squares)
KERNEL(half_a_barrier)
