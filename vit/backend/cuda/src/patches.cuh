// Indexing of images (h, w, C), of their patches (N, C p p), and of random crops.

// Position in the image of an element of its patches.
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

// Random crop of the image in a slot of the batch at a step: a shift by up to `padding` pixels along each axis and, if
// `flip`, a horizontal reflection with a probability of 1/2.
struct Crop {
    int down, right;
    bool mirrored;

    __device__ __forceinline__ Crop(uint64 seed, uint32 slot, uint32 step, int padding, int flip) {
        const Random random = philox(seed, slot, step, 0, AUGMENT);
        down = static_cast<int>(__umulhi(random.words[0], 2 * padding + 1)) - padding;
        right = static_cast<int>(__umulhi(random.words[1], 2 * padding + 1)) - padding;
        mirrored = flip && random.words[2] >> 31;
    }

    // Returns the index of the source pixel of a position, less than h w, or -1 if the pixel is outside the image.
    __device__ __forceinline__ int source(int row, int column, int height, int width) const {
        row += down;
        column = (mirrored ? width - 1 - column : column) + right;
        return row >= 0 && row < height && column >= 0 && column < width ? row * width + column : -1;
    }
};

__device__ __forceinline__ float soft_target(int c, int label, int classes, float smoothing) {
    return (c == label ? 1.0f - smoothing : 0.0f) + smoothing / classes;
}
