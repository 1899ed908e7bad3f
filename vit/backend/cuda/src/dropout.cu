// Dropout of elements (Srivastava et al. 2014) and of an image's whole branch (Huang et al. 2016, arXiv 1603.09382).
// Forward and backward are the same multiplication: the counter-based random numbers are generated again.

#include "common.cuh"
#include "philox.cuh"

// out = (x + bias) keep, (R, B, N, D), bias null or (R, D). A draw below a threshold (of 2^32) drops. Element e of a run
// reads word e mod 4 of its address e / 4, whatever V is. Grid: packs of a run, R.
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    dropout(const T* x, const float* bias, int64 bias_stride, uint32 threshold, float keep, uint32 path_threshold,
            float path_keep, const int64* seeds, const int* step, uint32 site, T* out, int images, int tokens,
            int width) {
    const int64 element = (static_cast<int64>(blockIdx.x) * BLOCK + threadIdx.x) * V;
    const int64 image_size = static_cast<int64>(tokens) * width;
    if (element >= images * image_size) return;
    const int64 at = blockIdx.y * images * image_size + element;
    const uint64 seed = seeds[blockIdx.y];
    float value[V];
    load(x + at, value);
    if (bias) {
        float added[V];
        load(bias + blockIdx.y * bias_stride + element % width, added);
#pragma unroll
        for (int i = 0; i < V; i++) value[i] += added[i];
    }
    float factor = 1.0f;
    if (path_threshold) {
        const uint32 image = element / image_size;
        factor = philox(seed, image, site, *step, DROP_PATHS).words[0] < path_threshold ? 0.0f : path_keep;
    }
    if (threshold) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const Random random = philox(seed, (element + i) / 4, site, *step, DROP_ELEMENTS);
#pragma unroll
            for (int j = 0; j < (V < 4 ? V : 4); j++) {
                const uint32 word = V < 4 ? random.words[(element + j) % 4] : random.words[j];
                value[i + j] *= word < threshold ? 0.0f : keep;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) value[i] *= factor;
    store(out + at, value);
}
