// Cross-entropy and log-probabilities over rows of logits, in nats. A block is a row.
#ifndef __CUDACC_RTC__
#include "device.cuh"
#endif

namespace {

__device__ float largest(const float* row, unsigned vocab) {
    float most = negative_infinity();
    for (unsigned i = threadIdx.x; i < vocab; i += blockDim.x) most = fmaxf(most, row[i]);
    return block_max(most);
}

__device__ double log_sum_exp(const float* row, unsigned vocab) {
    float most = largest(row, vocab), sum = 0;
    for (unsigned i = threadIdx.x; i < vocab; i += blockDim.x) sum += expf(row[i] - most);
    return most + log(static_cast<double>(block_sum(sum)));
}

// (1 − ε) · −log p[target] + ε · mean of −log p, of a row whose log-sum-exp is known.
__device__ double smoothed(const float* row, unsigned vocab, unsigned target, double lse, double smoothing) {
    double likely = lse - row[target];
    if (smoothing == 0) return likely;
    double sum = 0;
    for (unsigned i = threadIdx.x; i < vocab; i += blockDim.x) sum += row[i];
    return (1 - smoothing) * likely + smoothing * (lse - block_sum(sum) / vocab);
}

}  // namespace

extern "C" __global__ void cross_entropy(
    const float* __restrict__ logits,
    const unsigned* __restrict__ targets,
    double* __restrict__ losses,
    unsigned vocab,
    double smoothing
) {
    const float* row = logits + static_cast<size_t>(blockIdx.x) * vocab;
    double loss = smoothed(row, vocab, targets[blockIdx.x], log_sum_exp(row, vocab), smoothing);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

// As cross_entropy, and overwrites logits with `factor` times the gradient.
extern "C" __global__ void cross_entropy_backward(
    float* __restrict__ logits,
    const unsigned* __restrict__ targets,
    double* __restrict__ losses,
    unsigned vocab,
    double smoothing,
    double factor
) {
    float* row = logits + static_cast<size_t>(blockIdx.x) * vocab;
    unsigned target = targets[blockIdx.x];
    double lse = log_sum_exp(row, vocab);
    double loss = smoothed(row, vocab, target, lse, smoothing);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
    __syncthreads();  // Everybody has read what is now overwritten.
    float shift = static_cast<float>(lse), whole = static_cast<float>(factor);
    // What every entry of the vocabulary is given of the label, and what the label keeps.
    float spread = static_cast<float>(factor * smoothing / vocab);
    float kept = static_cast<float>(factor * (1 - smoothing));
    for (unsigned i = threadIdx.x; i < vocab; i += blockDim.x) {
        float slope = expf(row[i] - shift) * whole - spread;
        row[i] = i == target ? slope - kept : slope;
    }
}

extern "C" __global__ void log_probs(
    const float* __restrict__ logits,
    const unsigned* __restrict__ targets,
    double* __restrict__ logps,
    unsigned vocab
) {
    const float* row = logits + static_cast<size_t>(blockIdx.x) * vocab;
    double logp = row[targets[blockIdx.x]] - log_sum_exp(row, vocab);
    if (threadIdx.x == 0) logps[blockIdx.x] = logp;
}

// Overwrites logits with dlogp · (1[target] − softmax(logits)).
extern "C" __global__ void log_probs_backward(
    float* __restrict__ logits,
    const unsigned* __restrict__ targets,
    const float* __restrict__ dlogps,
    unsigned vocab
) {
    float* row = logits + static_cast<size_t>(blockIdx.x) * vocab;
    unsigned target = targets[blockIdx.x];
    float dlogp = dlogps[blockIdx.x], shift = static_cast<float>(log_sum_exp(row, vocab));
    for (unsigned i = threadIdx.x; i < vocab; i += blockDim.x) {
        float slope = -dlogp * expf(row[i] - shift);
        row[i] = i == target ? slope + dlogp : slope;
    }
}

// ln Σ softmax(logits)².
extern "C" __global__ void log_collisions(
    const float* __restrict__ logits,
    double* __restrict__ collisions,
    unsigned vocab
) {
    const float* row = logits + static_cast<size_t>(blockIdx.x) * vocab;
    float most = largest(row, vocab), sum = 0, squares = 0;
    for (unsigned i = threadIdx.x; i < vocab; i += blockDim.x) {
        float weight = expf(row[i] - most);
        sum += weight;
        squares += weight * weight;
    }
    double of_all = block_sum(static_cast<double>(sum)), of_squares = block_sum(static_cast<double>(squares));
    if (threadIdx.x == 0) collisions[blockIdx.x] = log(of_squares) - 2 * log(of_all);
}
