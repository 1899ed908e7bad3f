// Bias, scale and rotation of queries, keys and values in place, and their backward pass, for unfused attention.

#include "common.cuh"
#include "columns.cuh"
#include "heads.cuh"

// Part (query, key or value) of V adjacent columns that begin with `column`, and the rotation of pairs of them. A pair
// always belongs to one head.
template <int V>
struct Place {
    Rotation rotation;  // of the first head
    bool query[V], turns[V];
    int dim[V];  // channel within the head, plus twice the distance of the head's tables from those of the first head

    __device__ __forceinline__ Place(const Rotation& all, int column, int width, int head_width)
        : rotation(all.of(blockIdx.z, 0)) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            query[i] = column + i < width;
            turns[i] = column + i < 2 * width;
            const int head = (column + i) % width / head_width;
            dim[i] = (column + i) % head_width + 2 * head * static_cast<int>(all.head_stride);
        }
    }

    template <bool BACK>
    __device__ __forceinline__ void turn(int token, int head_width, float (&x)[V]) const {
        if constexpr (V > 1)
#pragma unroll
            for (int i = 0; i < V; i += 2) {
                float pair[2] = {x[i], x[i + 1]};
                if (turns[i]) rotation.turn<BACK>(token, head_width, dim[i], pair);
                x[i] = pair[0], x[i + 1] = pair[1];
            }
    }
};

// Adds the bias to qkv (R, rows, 3 width), scales the queries, and rotates the queries and keys. The token of a row is
// row mod tokens. The queries and keys of tokens from `turned` on are left to turn.cu. Grid: (parts of the rows, tiles of columns, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    qkv_bias(T* qkv, const float* bias, int64 bias_stride, float scale, const float* cos, const float* sin,
             int64 run_stride, int64 head_stride, int prefix, int turned, int rows, int tokens, int width,
             int head_width) {
    const Tile<V> tile(blockIdx.y, blockIdx.x, gridDim.x, rows);
    if (tile.column >= 3 * width) return;
    const Place<V> place({cos, sin, run_stride, head_stride, prefix}, tile.column, width, head_width);
    float added[V];
    load(bias + blockIdx.z * bias_stride + tile.column, added);
    for (int row = tile.first; row < tile.last; row += tile.groups) {
        if (row % tokens >= turned && tile.column < 2 * width) continue;
        T* at = qkv + (blockIdx.z * static_cast<int64>(rows) + row) * 3 * width + tile.column;
        float x[V];
        load(at, x);
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = (x[i] + added[i]) * (place.query[i] ? scale : 1.0f);
        place.template turn<false>(row % tokens, head_width, x);
        store(at, x);
    }
}

// Applies the inverse rotation and the scale to dqkv (R, rows, 3 width), and writes the sums of the result over the
// rows of each part to `parts`. The queries of tokens from `turned` on are scaled already. The grid is that of qkv_bias.
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK, 2)
    qkv_bias_backward(T* dqkv, float scale, const float* cos, const float* sin, int64 run_stride, int64 head_stride,
                      int prefix, int turned, float* parts, int rows, int tokens, int width, int head_width) {
    const Tile<V> tile(blockIdx.y, blockIdx.x, gridDim.x, rows);
    const Place<V> place({cos, sin, run_stride, head_stride, prefix}, tile.column, width, head_width);
    float sum[V] = {};
    if (tile.column < 3 * width)
        for (int row = tile.first; row < tile.last; row += tile.groups) {
            T* at = dqkv + (blockIdx.z * static_cast<int64>(rows) + row) * 3 * width + tile.column;
            float x[V];
            load(at, x);
            place.template turn<true>(row % tokens, head_width, x);
#pragma unroll
            for (int i = 0; i < V; i++) {
                x[i] *= place.query[i] && row % tokens < turned ? scale : 1.0f;
                sum[i] += x[i];
            }
            store(at, x);
        }
    write_part(sum, parts, 3 * width);
}
