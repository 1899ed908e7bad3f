// Changes of the scores of unfused attention by an encoding, and their gradients.

#include "common.cuh"

// Writes the sums of dscores (R, images, columns) over the images of each part to parts (R, gridDim.y, columns).
// Grid: (packs of the columns, parts, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK) score_bias_gradient(const T* dscores, float* parts, int images, int columns) {
    const int64 column = (static_cast<int64>(blockIdx.x) * BLOCK + threadIdx.x) * V;
    if (column >= columns) return;
    const int count = gridDim.y, part = blockIdx.y, each = (images + count - 1) / count;
    const int last = min((part + 1) * each, images);
    const T* from = dscores + static_cast<int64>(blockIdx.z) * images * columns + column;
    float sum[V] = {};
#pragma unroll 4
    for (int image = part * each; image < last; image++) {
        float x[V];
        load(from + static_cast<int64>(image) * columns, x);
#pragma unroll
        for (int i = 0; i < V; i++) sum[i] += x[i];
    }
    store(parts + (static_cast<int64>(blockIdx.z) * count + part) * columns + column, sum);
}

constexpr int WARPS = BLOCK / 32;

// A warp processes the scores of one query. Rows of scores are numbered as (R, B, H, T), those of products (R, B, T, H,
// 2 (2 g - 1)) as (R, B, T, H). The patches form a g x g grid.
struct QueryRow {
    int64 row, products;  // offsets in scores and products
    int query, x, y;      // token, and column and row of its patch
    bool inside;

    __device__ __forceinline__ QueryRow(int64 rows, int prefix, int tokens, int grid, int heads) {
        const int64 index = static_cast<int64>(blockIdx.x) * WARPS + threadIdx.x / 32, image = index / tokens / heads;
        inside = index < rows;
        query = index % tokens;
        row = index * tokens;
        products = ((image * tokens + query) * heads + index / tokens % heads) * 2 * (2 * grid - 1);
        x = (query - prefix) % grid;
        y = (query - prefix) / grid;
    }
};

// Adds products[x' - x + g - 1] + products[2 g - 1 + y' - y + g - 1] to the score of a query at (x, y) and a key at
// (x', y'). Nothing is added for the first `prefix` tokens. Grid: R B H T / WARPS.
template <typename T>
__global__ void __launch_bounds__(BLOCK)
    add_relative_scores(T* scores, const T* products, int prefix, int64 rows, int tokens, int grid, int heads) {
    const QueryRow at(rows, prefix, tokens, grid, heads);
    if (!at.inside || at.query < prefix) return;
    const T* columns = products + at.products + grid - 1 - at.x;
    const T* lines = products + at.products + 2 * grid - 1 + grid - 1 - at.y;
    T* to = scores + at.row + prefix;
    for (int key = threadIdx.x % 32; key < grid * grid; key += 32)
        to[key] = from_float<T>(to_float(to[key]) + to_float(columns[key % grid]) + to_float(lines[key / grid]));
}

// Gradient of the products of add_relative_scores: sums of dscores over the keys of one column and of one row. That of
// the first `prefix` tokens is 0. Grid: R B H T / WARPS.
template <typename T>
__global__ void __launch_bounds__(BLOCK)
    relative_scores_gradient(const T* dscores, T* out, int prefix, int64 rows, int tokens, int grid, int heads) {
    const QueryRow at(rows, prefix, tokens, grid, heads);
    if (!at.inside) return;
    const int span = 2 * grid - 1;
    const T* from = dscores + at.row + prefix;
    for (int i = threadIdx.x % 32; i < 2 * span; i += 32) {
        const bool column = i < span;
        const int line = column ? i - grid + 1 + at.x : i - span - grid + 1 + at.y;
        float sum = 0.0f;
        if (at.query >= prefix && line >= 0 && line < grid)
            for (int j = 0; j < grid; j++) sum += to_float(from[column ? j * grid + line : line * grid + j]);
        out[at.products + i] = from_float<T>(sum);
    }
}
