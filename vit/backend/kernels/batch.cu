// Images to patches (R, B, N, C p p), row by row, channels slowest within a patch.

#include "common.cuh"
#include "philox.cuh"

// Where an element of an image's patches lies in the image.
struct Pixel {
    int row, column, channel;

    __device__ __forceinline__ Pixel(int element, int width, int channels, int patch) {
        const int area = patch * patch, patch_width = channels * area, columns = width / patch;
        const int index = element / patch_width, within = element % patch_width;
        channel = within / area;
        row = index / columns * patch + within % area / patch;
        column = index % columns * patch + within % patch;
    }
};

// float32 images (R, B, h, w, C), as they are. Grid: packs of an image, B, R.
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    patchify(const float* images, T* patches, int height, int width, int channels, int patch) {
    const int size = height * width * channels, first = (blockIdx.x * BLOCK + threadIdx.x) * V;
    if (first >= size) return;
    const int64 image = (static_cast<int64>(blockIdx.z) * gridDim.y + blockIdx.y) * size;
    float value[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        const Pixel pixel(first + i, width, channels, patch);
        value[i] = images[image + (pixel.row * width + pixel.column) * channels + pixel.channel];
    }
    store(patches + image + first, value);
}

// Image order[run, (step mod steps) B + b] of uint8 images (n, h, w, C), moved by up to `padding` pixels (gaps black),
// mirrored, normalised by mean and std (R, C) in units of 0..1; and its label as a soft target. Grid: packs of an
// image, B, R.
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    load_batch(const unsigned char* images, const int* labels, const int* order, int64 order_stride, const int* step,
               int steps, const float* mean, const float* std, const int64* seeds, T* patches, float* targets,
               int height, int width, int channels, int patch, int classes, float smoothing, int padding, int flip) {
    const int run = blockIdx.z, slot = blockIdx.y;
    const int64 place = static_cast<int64>(run) * gridDim.y + slot;
    const int chosen = order[run * order_stride + static_cast<int64>(*step % steps) * gridDim.y + slot];
    if (blockIdx.x == 0)
        for (int c = threadIdx.x; c < classes; c += BLOCK)
            targets[place * classes + c] = (c == labels[chosen] ? 1.0f - smoothing : 0.0f) + smoothing / classes;

    const int size = height * width * channels, first = (blockIdx.x * BLOCK + threadIdx.x) * V;
    if (first >= size) return;
    const Random random = philox(seeds[run], slot, *step, 0, AUGMENT);
    const int down = static_cast<int>(__umulhi(random.words[0], 2 * padding + 1)) - padding;
    const int right = static_cast<int>(__umulhi(random.words[1], 2 * padding + 1)) - padding;
    const bool mirrored = flip && random.words[2] >> 31;
    const unsigned char* image = images + static_cast<int64>(chosen) * size;
    float value[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        const Pixel pixel(first + i, width, channels, patch);
        const int row = pixel.row + down, column = (mirrored ? width - 1 - pixel.column : pixel.column) + right;
        const bool inside = row >= 0 && row < height && column >= 0 && column < width;
        const float level = inside ? image[(row * width + column) * channels + pixel.channel] * (1.0f / 255.0f) : 0.0f;
        value[i] = (level - mean[run * channels + pixel.channel]) / std[run * channels + pixel.channel];
    }
    store(patches + place * size + first, value);
}
