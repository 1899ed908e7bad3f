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
