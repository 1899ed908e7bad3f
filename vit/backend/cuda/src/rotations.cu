// Gradients of learned rotations of queries and keys.

#include "common.cuh"

// Gradient of the angles of a rotation, summed over the images of a part, the queries and the keys: for a pair of
// channels (a, b) and its gradient (da, db) it is a db - b da. x and dx are (R, images, T, 3, H, K); bias (R, 3 H K) is
// added to x, or null. A thread sums V / 2 pairs of one token. Grid: (packs of the patches (N, H, K), parts, R).
// Output: parts (R, gridDim.y, H, N, K / 2).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    rotation_gradient(const T* x, const float* bias, int64 bias_stride, const T* dx, float* parts, int prefix,
                      int images, int tokens, int heads, int head_width) {
    const int width = heads * head_width, patches = tokens - prefix;
    const int pack = (blockIdx.x * BLOCK + threadIdx.x) * V, patch = pack / width, column = pack % width;
    if (patch >= patches) return;
    const int count = gridDim.y, part = blockIdx.y, each = (images + count - 1) / count;
    const int last = min((part + 1) * each, images);
    float sum[V / 2] = {}, added[2][V] = {};
    if (bias)
#pragma unroll
        for (int which = 0; which < 2; which++)
            load(bias + blockIdx.z * bias_stride + which * width + column, added[which]);
    for (int image = part * each; image < last; image++) {
        const int64 row = (blockIdx.z * static_cast<int64>(images) + image) * tokens + prefix + patch;
#pragma unroll
        for (int which = 0; which < 2; which++) {
            float a[V], da[V];
            load(x + (row * 3 + which) * width + column, a);
            load(dx + (row * 3 + which) * width + column, da);
#pragma unroll
            for (int i = 0; i < V; i++) a[i] += added[which][i];
#pragma unroll
            for (int i = 0; i < V; i += 2) sum[i / 2] += a[i] * da[i + 1] - a[i + 1] * da[i];
        }
    }
    const int64 of = (static_cast<int64>(blockIdx.z) * count + part) * heads + column / head_width;
    store(parts + ((of * patches + patch) * head_width + column % head_width) / 2, sum);
}
