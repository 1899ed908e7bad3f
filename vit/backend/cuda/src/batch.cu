// Images to patches (R, B, N, C p p), row by row, channels slowest within a patch.

#include "common.cuh"
#include "philox.cuh"
#include "patches.cuh"

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
// mirrored, normalised by mean and std (R, C) in units of 0..1; and its label as a soft target, smoothing (R,). Grid: packs of an
// image, B, R.
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    load_batch(const unsigned char* images, const int* labels, const int* order, int64 order_stride, const int* step,
               int steps, const float* mean, const float* std, const int64* seeds, T* patches, float* targets,
               int height, int width, int channels, int patch, int classes, const float* smoothing, int padding, int flip) {
    const int run = blockIdx.z, slot = blockIdx.y;
    const int64 place = static_cast<int64>(run) * gridDim.y + slot;
    const int chosen = order[run * order_stride + static_cast<int64>(*step % steps) * gridDim.y + slot];
    if (blockIdx.x == 0)
        for (int c = threadIdx.x; c < classes; c += BLOCK)
            targets[place * classes + c] = soft_target(c, labels[chosen], classes, smoothing[run]);

    const int size = height * width * channels, first = (blockIdx.x * BLOCK + threadIdx.x) * V;
    if (first >= size) return;
    const Crop crop(seeds[run], slot, *step, padding, flip);
    const unsigned char* image = images + static_cast<int64>(chosen) * size;
    float value[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        const Pixel pixel(first + i, width, channels, patch);
        const int at = crop.source(pixel.row, pixel.column, height, width);
        const float level = at < 0 ? 0.0f : image[at * channels + pixel.channel] * (1.0f / 255.0f);
        value[i] = (level - mean[run * channels + pixel.channel]) / std[run * channels + pixel.channel];
    }
    store(patches + place * size + first, value);
}
