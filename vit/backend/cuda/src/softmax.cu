// Softmax over rows in place, and its backward pass, for unfused attention. A warp processes one row; each thread holds
// ITEMS elements.

#include "common.cuh"

constexpr int WARPS = BLOCK / 32;

// x = softmax(x), where x is (rows, width). Grid: rows / WARPS.
template <typename T, int ITEMS>
__global__ void __launch_bounds__(BLOCK) softmax(T* x, int64 rows, int width) {
    const int64 row = static_cast<int64>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    float value[ITEMS], top = -infinity(), total = 0.0f;
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const int column = i * 32 + lane;
        value[i] = column < width ? to_float(x[row * width + column]) : -infinity();
        top = fmaxf(top, value[i]);
    }
    top = max_lanes<32>(top);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        value[i] = expf(value[i] - top);
        total += value[i];
    }
    total = sum_lanes<32>(total);
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if (i * 32 + lane < width) x[row * width + i * 32 + lane] = from_float<T>(value[i] / total);
}

// dy = y (dy - sum(dy y)), where y = softmax(x). Grid: rows / WARPS.
template <typename T, int ITEMS>
__global__ void __launch_bounds__(BLOCK) softmax_backward(T* dy, const T* y, int64 rows, int width) {
    const int64 row = static_cast<int64>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    float gradient[ITEMS], probability[ITEMS], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const int column = i * 32 + lane;
        gradient[i] = column < width ? to_float(dy[row * width + column]) : 0.0f;
        probability[i] = column < width ? to_float(y[row * width + column]) : 0.0f;
        sum += gradient[i] * probability[i];
    }
    sum = sum_lanes<32>(sum);
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if (i * 32 + lane < width)
            dy[row * width + i * 32 + lane] = from_float<T>(probability[i] * (gradient[i] - sum));
}
