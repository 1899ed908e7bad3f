// Sums over rows, and the second stage of all reductions that write partial sums.

#include "common.cuh"
#include "columns.cuh"

// Writes the sums of x (R, rows, columns) over the rows of each part to parts (R, gridDim.x, columns).
// Grid: (parts, tiles of columns, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK) sum_rows(const T* x, float* parts, int rows, int columns) {
    const Tile<V> tile(blockIdx.y, blockIdx.x, gridDim.x, rows);
    x += static_cast<int64>(blockIdx.z) * rows * columns;
    float sum[V] = {};
    if (tile.column < columns)
        for (int row = tile.first; row < tile.last; row += tile.groups) {
            float value[V];
            load(x + static_cast<int64>(row) * columns + tile.column, value);
#pragma unroll
            for (int i = 0; i < V; i++) sum[i] += value[i];
        }
    write_part(sum, parts, columns);
}

constexpr int SUM_COLUMNS = 64, SUM_GROUPS = 16;

// Sums parts (R, count, outputs, columns) over count. Output i of run r begins at out_i + r stride_i. Outputs that are
// not needed are null. Grid: (tiles of columns, outputs (at most 3), R).
__global__ void __launch_bounds__(SUM_COLUMNS* SUM_GROUPS)
    sum_parts(const float* parts, int count, int columns, float* out0, int64 stride0, float* out1, int64 stride1,
              float* out2, int64 stride2) {
    __shared__ float sums[SUM_GROUPS][SUM_COLUMNS];
    const int lane = threadIdx.x % SUM_COLUMNS, group = threadIdx.x / SUM_COLUMNS;
    const int column = blockIdx.x * SUM_COLUMNS + lane;
    const int64 run = blockIdx.z;
    float* out = blockIdx.y == 0 ? out0 : blockIdx.y == 1 ? out1 : out2;
    const int64 stride = blockIdx.y == 0 ? stride0 : blockIdx.y == 1 ? stride1 : stride2;
    float sum = 0.0f;
    if (column < columns && out) {
        const int64 row = static_cast<int64>(gridDim.y) * columns;
        const float* from = parts + run * count * row + blockIdx.y * columns + column;
#pragma unroll 4
        for (int part = group; part < count; part += SUM_GROUPS) sum += from[part * row];
    }
    sums[group][lane] = sum;
    __syncthreads();
    if (group == 0 && column < columns && out) {
        float total = 0.0f;
        for (int i = 0; i < SUM_GROUPS; i++) total += sums[i][lane];
        out[run * stride + column] = total;
    }
}

// out (R, B, D) = mean of x (R, B, N, D) over the tokens. Grid: (B, tiles of columns, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK) mean_tokens(const T* x, T* out, int tokens, int width) {
    const Tile<V> tile(blockIdx.y, 0, 1, tokens);
    const int64 image = static_cast<int64>(blockIdx.z) * gridDim.x + blockIdx.x;
    float sum[V] = {};
    if (tile.column < width)
        for (int token = tile.first; token < tile.last; token += tile.groups) {
            float value[V];
            load(x + (image * tokens + token) * width + tile.column, value);
#pragma unroll
            for (int i = 0; i < V; i++) sum[i] += value[i];
        }
    const float total = fold_groups(sum);
    const int column = blockIdx.y * TILE_COLUMNS<V> + threadIdx.x;
    if (threadIdx.x < TILE_COLUMNS<V> && column < width) out[image * width + column] = from_float<T>(total / tokens);
}
