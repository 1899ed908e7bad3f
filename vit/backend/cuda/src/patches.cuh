// Images (h, w, C), their patches (N, C p p), and where a random crop takes a pixel from.

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

// The image of a batch's slot at a step, moved by up to `padding` pixels along each axis and perhaps mirrored.
struct Crop {
    int down, right;
    bool mirrored;

    __device__ __forceinline__ Crop(uint64 seed, uint32 slot, uint32 step, int padding, int flip) {
        const Random random = philox(seed, slot, step, 0, AUGMENT);
        down = static_cast<int>(__umulhi(random.words[0], 2 * padding + 1)) - padding;
        right = static_cast<int>(__umulhi(random.words[1], 2 * padding + 1)) - padding;
        mirrored = flip && random.words[2] >> 31;
    }

    // Index (of h w) of the source pixel of a position, or -1 outside the image.
    __device__ __forceinline__ int source(int row, int column, int height, int width) const {
        row += down;
        column = (mirrored ? width - 1 - column : column) + right;
        return row >= 0 && row < height && column >= 0 && column < width ? row * width + column : -1;
    }
};

__device__ __forceinline__ float soft_target(int c, int label, int classes, float smoothing) {
    return (c == label ? 1.0f - smoothing : 0.0f) + smoothing / classes;
}
