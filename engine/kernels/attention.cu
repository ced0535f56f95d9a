// The softmax of causal attention and its gradient (FlashAttention-2, arXiv 2307.08691), between products by cuBLAS.
//
// Scores are a tile [kv_heads, queries · group, keys]: some queries of one example, the heads that share a key head, and
// the keys any of the queries sees. A block is a row of it.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

namespace {

struct Seen {
    unsigned from, to;
};

// Which keys of the tile the row at hand sees: all up to its own, `window` at most. `query` is the tile's first,
// counted in the example, `lead` how many keys come before the example's first query's own, `key` the tile's first.
__device__ Seen seen(unsigned rows, unsigned group, unsigned query, unsigned lead, unsigned window, unsigned key) {
    unsigned end = lead + query + blockIdx.x % rows / group + 1;
    unsigned start = end > window ? end - window : 0;
    return {start - key, end - key};
}

// A cap of 0 is none.
__device__ float score(float dot, float factor, float cap) {
    float scaled = dot * factor;
    return cap > 0 ? capped(scaled, cap) : scaled;
}

}  // namespace

// Softmax in place, 0 where a row does not see; lse is [kv_heads, rows].
extern "C" __global__ void attention_softmax(
    float* __restrict__ scores,
    float* __restrict__ lse,
    unsigned rows,
    unsigned keys,
    unsigned group,
    unsigned query,
    unsigned lead,
    unsigned window,
    unsigned key,
    float factor,
    float cap
) {
    float* row = scores + static_cast<size_t>(blockIdx.x) * keys;
    Seen in = seen(rows, group, query, lead, window, key);
    float most = negative_infinity();
    for (unsigned i = in.from + threadIdx.x; i < in.to; i += blockDim.x) {
        row[i] = score(row[i], factor, cap);
        most = fmaxf(most, row[i]);
    }
    most = block_max(most);
    float sum = 0;
    for (unsigned i = in.from + threadIdx.x; i < in.to; i += blockDim.x) {
        row[i] = expf(row[i] - most);
        sum += row[i];
    }
    sum = block_sum(sum);
    // Threads walk the whole row now, others than those that wrote a number above.
    __syncthreads();
    float inverse = 1.0f / sum;
    for (unsigned i = threadIdx.x; i < keys; i += blockDim.x) {
        row[i] = i >= in.from && i < in.to ? row[i] * inverse : 0.0f;
    }
    if (threadIdx.x == 0) lse[blockIdx.x] = most + logf(sum);
}

// From q·kᵀ in `scores` and dO·vᵀ in `dscores`, in place: the probabilities P, and dS = P ∘ (dO·vᵀ − delta) times
// what a score does to its product. delta is rowsum(dO ∘ O).
extern "C" __global__ void attention_backward(
    float* __restrict__ scores,
    float* __restrict__ dscores,
    const float* __restrict__ lse,
    const float* __restrict__ delta,
    unsigned rows,
    unsigned keys,
    unsigned group,
    unsigned query,
    unsigned lead,
    unsigned window,
    unsigned key,
    float factor,
    float cap
) {
    size_t row = static_cast<size_t>(blockIdx.x) * keys;
    Seen in = seen(rows, group, query, lead, window, key);
    for (unsigned i = threadIdx.x; i < keys; i += blockDim.x) {
        float p = 0, ds = 0;
        if (i >= in.from && i < in.to) {
            float s = score(scores[row + i], factor, cap);
            p = expf(s - lse[blockIdx.x]);
            ds = p * (dscores[row + i] - delta[blockIdx.x]) * factor;
            if (cap > 0) ds *= capped_slope(s, cap);
        }
        scores[row + i] = p;
        dscores[row + i] = ds;
    }
}
