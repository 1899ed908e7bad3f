// Cross-entropy of softmax(logits) with soft targets that sum to one, and its gradient.

#include "common.cuh"

constexpr int WARPS = BLOCK / 32;

// Keeps the pair (value, index) with the larger value or, if the values are equal, with the smaller index.
__device__ __forceinline__ void keep_larger(float& value, int& index, float other, int other_index) {
    if (other > value || (other == value && other_index < index)) value = other, index = other_index;
}

// Returns the index of the largest entry of a row (the first one if several are equal), in every thread of the warp,
// and writes the entry to `value`.
template <typename T>
__device__ __forceinline__ int largest_of(const T* row, int classes, float& value) {
    int index = classes;
    value = -infinity();
    for (int c = threadIdx.x % 32; c < classes; c += 32) keep_larger(value, index, to_float(row[c]), c);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, value, offset);
        keep_larger(value, index, other, __shfl_xor_sync(ALL_LANES, index, offset));
    }
    return index;
}

// Computes losses (rows,), dlogits = scale (softmax(logits) - targets), and hits (rows,) from logits and targets, both
// (rows, classes). A hit is 1 if logits and targets have their maximum at the same class, otherwise 0. A warp processes
// one row. Grid: rows / WARPS.
template <typename T, typename G>
__global__ void __launch_bounds__(BLOCK)
    cross_entropy(const T* logits, const float* targets, float scale, float* losses, G* dlogits, float* hits,
                  int64 rows, int classes) {
    const int64 row = static_cast<int64>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T* from = logits + row * classes;
    const float* target = targets + row * classes;
    G* to = dlogits + row * classes;
    float top, most, total = 0.0f, expected = 0.0f;
    const int predicted = largest_of(from, classes, top), label = largest_of(target, classes, most);
    for (int c = lane; c < classes; c += 32) {
        const float shifted = to_float(from[c]) - top;
        total += expf(shifted);
        expected += target[c] * shifted;
    }
    total = sum_lanes<32>(total);
    expected = sum_lanes<32>(expected);
    for (int c = lane; c < classes; c += 32)
        to[c] = from_float<G>(scale * (expf(to_float(from[c]) - top) / total - target[c]));
    if (lane == 0) {
        losses[row] = logf(total) - expected;
        hits[row] = predicted == label ? 1.0f : 0.0f;
    }
}

// totals (R, 2) += the sums of losses (R, B) and hits (R, B) over B. Grid: R.
__global__ void __launch_bounds__(BLOCK)
    add_totals(const float* losses, const float* hits, float* totals, int images) {
    __shared__ float sums[2][WARPS];
    float loss = 0.0f, hit = 0.0f;
    for (int i = threadIdx.x; i < images; i += BLOCK) {
        loss += losses[static_cast<int64>(blockIdx.x) * images + i];
        hit += hits[static_cast<int64>(blockIdx.x) * images + i];
    }
    loss = sum_lanes<32>(loss);
    hit = sum_lanes<32>(hit);
    if (threadIdx.x % 32 == 0) sums[0][threadIdx.x / 32] = loss, sums[1][threadIdx.x / 32] = hit;
    __syncthreads();
    if (threadIdx.x < 2) {
        float total = 0.0f;
        for (int warp = 0; warp < WARPS; warp++) total += sums[threadIdx.x][warp];
        totals[blockIdx.x * 2 + threadIdx.x] += total;
    }
}
