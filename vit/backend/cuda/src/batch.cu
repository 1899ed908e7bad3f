// Conversion of images to patches (R, B, N, C p p). The patches of an image are in row-major order. Within a patch, the
// channel index varies slowest.

#include "common.cuh"
#include "philox.cuh"
#include "patches.cuh"

// Converts float32 images (R, B, h, w, C) without changing their values. Grid: (packs of an image, B, R).
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

// Converts a batch of uint8 images (n, h, w, C). Element b of the batch is image order[run, (step mod steps) B + b]. It
// is shifted by up to `padding` pixels, with black pixels outside the image, mirrored at random if `flip`, and
// normalised by mean and std (R, C), which refer to levels scaled to 0..1. Its label is written as a soft target with
// label smoothing (R,). Grid: (packs of an image, B, R).
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
