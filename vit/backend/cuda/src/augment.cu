// Strong data augmentation on the device, in two kernels. It is equivalent to ablations/data/augmentation.py.

#include "common.cuh"
#include "philox.cuh"
#include "patches.cuh"
#include "trivial_augment.cuh"

// Rectangle of an image to be erased (Zhong et al. 2017, arXiv 1708.04896). It is empty if nothing is erased.
struct Erased {
    int top, bottom, left, right;

    __device__ __forceinline__ Erased(uint64 seed, uint32 slot, uint32 step, float probability, uint32 decision,
                                      int height, int width)
        : top(0), bottom(0), left(0), right(0) {
        if (uniform(decision) >= probability) return;
        const Random random = philox(seed, slot, step, 2, AUGMENT);
        const float area = static_cast<float>(height) * width;
        const float share = 0.02f + uniform(random.words[0]) * (1.0f / 3.0f - 0.02f);
        const float low = logf(fmaxf(0.3f, share * height / width));
        const float high = logf(fminf(1.0f / 0.3f, height / (share * width)));
        const float aspect = expf(low + uniform(random.words[1]) * (high - low));
        const float rows = fminf(fmaxf(rintf(sqrtf(share * area * aspect)), 1.0f), height);
        const float least = ceilf(0.02f * area / rows), most = fminf(floorf(area / 3.0f / rows), width);
        const float columns = fminf(fmaxf(rintf(share * area / rows), least), most);
        top = static_cast<int>(uniform(random.words[2]) * (height - rows + 1.0f));
        left = static_cast<int>(uniform(random.words[3]) * (width - columns + 1.0f));
        bottom = top + static_cast<int>(rows), right = left + static_cast<int>(columns);
    }
};

// Augments one image per thread block: crop and flip, TrivialAugment if `trivial`, normalisation, and erasing. Writes
// to out (R, B, h, w, C). The arguments are those of load_batch. Grid: (B, R). Dynamic shared memory: h w C bytes.
__global__ void __launch_bounds__(BLOCK)
    augment(const unsigned char* images, const int* order, int64 order_stride, const int* step, int steps,
            const float* mean, const float* std, const int64* seeds, float* out, int height, int width, int channels,
            int padding, int flip, int trivial, float erase) {
    extern __shared__ __align__(16) Level shared[];
    __shared__ Level table[MOST_CHANNELS][LEVELS];
    __shared__ int histogram[MOST_CHANNELS][LEVELS];
    __shared__ int grey_sum;
    const int slot = blockIdx.x, run = blockIdx.y, size = height * width * channels;
    const uint64 seed = seeds[run];
    const int chosen = order[run * order_stride + static_cast<int64>(*step % steps) * gridDim.x + slot];
    const unsigned char* from = images + static_cast<int64>(chosen) * size;
    const Crop crop(seed, slot, *step, padding, flip);
    for (int i = threadIdx.x; i < size; i += BLOCK) {
        const int pixel = i / channels, at = crop.source(pixel / width, pixel % width, height, width);
        shared[i] = at < 0 ? 0 : from[at * channels + i % channels];
    }
    for (int i = threadIdx.x; i < MOST_CHANNELS * LEVELS; i += BLOCK) histogram[i / LEVELS][i % LEVELS] = 0;
    if (threadIdx.x == 0) grey_sum = 0;
    __syncthreads();
    const Image image{shared, height, width, channels};
    Random draw = philox(seed, slot, *step, 0, AUGMENT);
    if (!trivial) draw.words[3] = 0;  // selects IDENTITY
    const Random more = philox(seed, slot, *step, 1, AUGMENT);
    const Changed changed(image, draw, more, table, histogram, &grey_sum);
    const Erased erased(seed, slot, *step, erase, more.words[2], height, width);
    out += (static_cast<int64>(run) * gridDim.x + slot) * size;
    for (int i = threadIdx.x; i < size; i += BLOCK) {
        const int pixel = i / channels, channel = i % channels, row = pixel / width, column = pixel % width;
        const float level = changed.at(row, column, channel) * (1.0f / 255.0f);
        const bool gone = row >= erased.top && row < erased.bottom && column >= erased.left && column < erased.right;
        out[i] = gone ? 0.0f : (level - mean[run * channels + channel]) / std[run * channels + channel];
    }
}

// Returns a random number from the gamma distribution with the given shape and scale 1 (Marsaglia and Tsang 2000, "A
// simple method for generating gamma variables").
__device__ __forceinline__ float gamma(float shape, uint64 seed, uint32 which, uint32 step) {
    const float d = (shape < 1.0f ? shape + 1.0f : shape) - 1.0f / 3.0f, c = 1.0f / sqrtf(9.0f * d);
    for (uint32 attempt = 0;; attempt++) {
        const Random random = philox(seed, which, step, attempt, MIX);
        const float normal = sqrtf(-2.0f * logf(1.0f - uniform(random.words[0]))) *
                             cosf(6.2831853f * uniform(random.words[1]));
        const float root = 1.0f + c * normal, v = root * root * root;
        if (root > 0.0f && logf(1.0f - uniform(random.words[2])) < 0.5f * normal * normal + d * (1.0f - v + logf(v)))
            return d * v * (shape < 1.0f ? powf(1.0f - uniform(random.words[3]), 1.0f / shape) : 1.0f);
    }
}

__device__ __forceinline__ float beta(float shape, uint64 seed, uint32 step) {
    const float first = gamma(shape, seed, 1, step), second = gamma(shape, seed, 2, step);
    return first + second > 0.0f ? first / (first + second) : 0.5f;
}

// Parameters of MixUp or CutMix for one batch. The partner of an image is the image `shift` positions later in the
// batch, modulo the batch size; the order of the images is already random. MixUp (Zhang et al. 2017, arXiv 1710.09412):
// the result is share image + (1 - share) partner. CutMix (Yun et al. 2019, arXiv 1905.04899, algorithm 1): a rectangle
// is copied from the partner, and `share` is the remaining fraction of the area. If both are enabled, each batch uses
// one of them, with equal probability.
struct Mix {
    float share;
    int shift, cut, top, bottom, left, right;

    __device__ __forceinline__ void draw(uint64 seed, uint32 step, float mixup, float cutmix, int images, int height,
                                         int width) {
        const Random random = philox(seed, 0, step, 0, MIX);
        cut = cutmix > 0.0f && (mixup <= 0.0f || random.words[0] >> 31);
        shift = __umulhi(random.words[1], images);
        share = beta(cut ? cutmix : mixup, seed, step);
        top = bottom = left = right = 0;
        if (cut) {
            const float side = sqrtf(1.0f - share);
            interval(uniform(random.words[2]), side, height, top, bottom);
            interval(uniform(random.words[3]), side, width, left, right);
            share = 1.0f - static_cast<float>((bottom - top) * (right - left)) / (height * width);
        }
    }

    __device__ __forceinline__ void interval(float centre, float side, int length, int& start, int& stop) {
        const int middle = static_cast<int>(centre * length);
        const float half = static_cast<int>(side * length) / 2.0f;
        start = static_cast<int>(fmaxf(middle - half, 0.0f));
        stop = static_cast<int>(fminf(middle + half, static_cast<float>(length)));
    }

    __device__ __forceinline__ bool of_partner(int row, int column) const {
        return row >= top && row < bottom && column >= left && column < right;
    }
};

// Mixes images (R, B, h, w, C) and divides them into patches, and mixes their labels into soft targets.
// Grid: (packs of an image, B, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK, 2)
    mix_patchify(const float* images, const int* labels, const int* order, int64 order_stride, const int* step,
                 int steps, const int64* seeds, T* patches, float* targets, int height, int width, int channels,
                 int patch, int classes, const float* smoothing, float mixup, float cutmix) {
    __shared__ Mix mix;
    const int run = blockIdx.z, slot = blockIdx.y, batch = gridDim.y;
    if (threadIdx.x == 0) {
        mix = Mix{1.0f, 0, 0, 0, 0, 0, 0};
        if (mixup > 0.0f || cutmix > 0.0f) mix.draw(seeds[run], *step, mixup, cutmix, batch, height, width);
    }
    __syncthreads();
    const int partner = (slot + mix.shift) % batch;
    const int64 place = static_cast<int64>(run) * batch + slot;
    if (blockIdx.x == 0) {
        const int* chosen = order + run * order_stride + static_cast<int64>(*step % steps) * batch;
        const int own = labels[chosen[slot]], other = labels[chosen[partner]];
        for (int c = threadIdx.x; c < classes; c += BLOCK)
            targets[place * classes + c] = mix.share * soft_target(c, own, classes, smoothing[run]) +
                                           (1.0f - mix.share) * soft_target(c, other, classes, smoothing[run]);
    }
    const int size = height * width * channels, first = (blockIdx.x * BLOCK + threadIdx.x) * V;
    if (first >= size) return;
    const float* own = images + place * size;
    const float* other = images + (static_cast<int64>(run) * batch + partner) * size;
    float value[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        const Pixel pixel(first + i, width, channels, patch);
        const int at = (pixel.row * width + pixel.column) * channels + pixel.channel;
        const float share = mix.cut ? (mix.of_partner(pixel.row, pixel.column) ? 0.0f : 1.0f) : mix.share;
        value[i] = share * own[at] + (1.0f - share) * other[at];
    }
    store(patches + place * size + first, value);
}
