// Elementwise kernels: addition of biases and tables, and copies. A thread processes V adjacent elements of a row.

#include "common.cuh"

// x (R, rows, columns) += bias (R or 1, period, columns). Row r of x uses row r mod period of bias.
// Grid: (packs of a run, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    add_rows(T* x, const float* bias, int64 bias_stride, uint32 rows, int columns, uint32 period) {
    const uint32 packs = columns / V, pack = blockIdx.x * BLOCK + threadIdx.x, row = pack / packs;
    if (row >= rows) return;
    const int column = (pack - row * packs) * V;
    float value[V], added[V];
    T* at = x + (blockIdx.y * static_cast<int64>(rows) + row) * columns + column;
    load(at, value);
    load(bias + blockIdx.y * bias_stride + static_cast<int64>(row % period) * columns + column, added);
#pragma unroll
    for (int i = 0; i < V; i++) value[i] += added[i];
    store(at, value);
}

// out = stream + branch + bias: stream and out (R, rows, columns) float32, branch (R, rows, columns), bias (R, columns).
// Grid: (packs of a run, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    add_branch(const float* stream, const T* branch, const float* bias, int64 bias_stride, float* out, uint32 rows,
               int columns) {
    const uint32 packs = columns / V, pack = blockIdx.x * BLOCK + threadIdx.x, row = pack / packs;
    if (row >= rows) return;
    const int column = (pack - row * packs) * V;
    const int64 at = (blockIdx.y * static_cast<int64>(rows) + row) * columns + column;
    float value[V], added[V], constant[V];
    load(stream + at, value);
    load(branch + at, added);
    load(bias + blockIdx.y * bias_stride + column, constant);
#pragma unroll
    for (int i = 0; i < V; i++) value[i] += added[i] + constant[i];
    store(out + at, value);
}

// Adds dqueries (R, rows, width) to the queries of dqkv (R, rows, 3 width). Grid: (packs of a run, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK) add_to_queries(T* dqkv, const T* dqueries, uint32 rows, int width) {
    const uint32 packs = width / V, pack = blockIdx.x * BLOCK + threadIdx.x, row = pack / packs;
    if (row >= rows) return;
    const int column = (pack - row * packs) * V;
    const int64 at = blockIdx.y * static_cast<int64>(rows) + row;
    float value[V], added[V];
    load(dqkv + at * 3 * width + column, value);
    load(dqueries + at * width + column, added);
#pragma unroll
    for (int i = 0; i < V; i++) value[i] += added[i];
    store(dqkv + at * 3 * width + column, value);
}

// x (n,) += y (n,). Grid: packs.
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK) add(T* x, const T* y, int64 count) {
    const int64 at = (static_cast<int64>(blockIdx.x) * BLOCK + threadIdx.x) * V;
    if (at >= count) return;
    float value[V], added[V];
    load(x + at, value);
    load(y + at, added);
#pragma unroll
    for (int i = 0; i < V; i++) value[i] += added[i];
    store(x + at, value);
}

// out (n,) = x (n,), converted to another type. Grid: packs.
template <typename S, typename T, int V>
__global__ void __launch_bounds__(BLOCK) cast(const S* x, T* out, int64 count) {
    const int64 at = (static_cast<int64>(blockIdx.x) * BLOCK + threadIdx.x) * V;
    if (at >= count) return;
    float value[V];
    load(x + at, value);
    store(out + at, value);
}

// out (n,) = value. Grid: packs.
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK) fill(T* out, float value, int64 count) {
    const int64 at = (static_cast<int64>(blockIdx.x) * BLOCK + threadIdx.x) * V;
    if (at >= count) return;
    float values[V];
#pragma unroll
    for (int i = 0; i < V; i++) values[i] = value;
    store(out + at, values);
}

// out (R, B, n, D) = source (R, B, n, D). The strides of runs, images and tokens are in elements.
// Grid: (packs of a run, R).
template <typename S, typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    copy_tokens(const S* source, int64 from_run, int64 from_image, int64 from_token, T* out, int64 to_run,
                int64 to_image, int64 to_token, uint32 images, uint32 tokens, int width) {
    const uint32 packs = width / V, pack = blockIdx.x * BLOCK + threadIdx.x, row = pack / packs;
    const uint32 image = row / tokens, token = row - image * tokens, run = blockIdx.y;
    if (image >= images) return;
    const int column = (pack - row * packs) * V;
    float value[V];
    load(source + run * from_run + image * from_image + token * from_token + column, value);
    store(out + run * to_run + image * to_image + token * to_token + column, value);
}

// out (images, N, D) = dy (images, D) / N for every token, over the images of all runs. Grid: packs.
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    mean_tokens_backward(const T* dy, T* out, uint32 images, uint32 tokens, int width) {
    const uint32 packs = width / V, pack = blockIdx.x * BLOCK + threadIdx.x, row = pack / packs;
    const uint32 image = row / tokens;
    if (image >= images) return;
    const int column = (pack - row * packs) * V;
    float value[V];
    load(dy + static_cast<int64>(image) * width + column, value);
#pragma unroll
    for (int i = 0; i < V; i++) value[i] *= 1.0f / tokens;
    store(out + static_cast<int64>(row) * width + column, value);
}
