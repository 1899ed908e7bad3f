// Dropout of elements (Srivastava et al. 2014) and of whole branches per image (Huang et al. 2016, arXiv 1603.09382).
// The forward and backward passes perform the same multiplication, because the backward pass generates the same
// counter-based random numbers again.

#include "common.cuh"
#include "philox.cuh"

// out = (x + bias) mask. x and out are (R, B, N, D), bias is (R, D) or null. The mask is the product of 0 or `keep` for
// the element and 0 or `path_keep` for the image. An element or a branch is dropped if its random word is less than the
// threshold, which is the rate times 2^32. Element e of a run uses word e mod 4 of the Philox counter e / 4, for any V.
// Grid: (packs of a run, R).
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
