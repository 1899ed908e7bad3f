// TrivialAugment (Mueller and Hutter 2021, arXiv 2103.10158): one random transformation of an image. The
// transformations and their order are those of ablations/data/trivial_augment.py.

enum Change {
    IDENTITY, TRANSLATE_X, TRANSLATE_Y, SHEAR_X, SHEAR_Y, ROTATE, BRIGHTNESS, CONTRAST, COLOUR, SHARPNESS, POSTERIZE,
    SOLARIZE, AUTO_CONTRAST, EQUALIZE, CHANGES
};

using Level = unsigned char;
constexpr int MOST_CHANNELS = 4, LEVELS = 256;

// Returns reference + factor (level - reference), rounded and clipped to 0..255.
__device__ __forceinline__ int enhanced(float level, float reference, float factor) {
    return static_cast<int>(fminf(fmaxf(rintf(reference + factor * (level - reference)), 0.0f), 255.0f));
}

struct Image {
    const Level* levels;  // (h, w, C) in shared memory
    int height, width, channels;

    __device__ __forceinline__ int at(int row, int column, int channel) const {
        return levels[(row * width + column) * channels + channel];
    }

    // Returns the ITU-R 601 luma of a pixel.
    __device__ __forceinline__ float grey(int row, int column) const {
        if (channels == 1) return at(row, column, 0);
        return rintf(at(row, column, 0) * 0.299f + at(row, column, 1) * 0.587f + at(row, column, 2) * 0.114f);
    }
};

// Transformed image of a thread block. A transformation of single levels is stored as a lookup table per channel. The
// other transformations read other pixels or channels.
struct Changed {
    Image image;
    Change change;
    const Level (*table)[LEVELS];
    float factor, xx, xy, yx, yy, shift_x, shift_y;

    // All threads of the block must call it, with a complete `image`. `table`, `histogram` and `grey_sum` are
    // workspaces in shared memory; `histogram` and `grey_sum` must be zero.
    __device__ __forceinline__ Changed(Image image, Random draw, Random strength_draw, Level (*table)[LEVELS],
                                       int (*histogram)[LEVELS], int* grey_sum)
        : image(image), table(table), xx(1.0f), xy(0.0f), yx(0.0f), yy(1.0f), shift_x(0.0f), shift_y(0.0f) {
        int chosen = __umulhi(draw.words[3], image.channels == 3 ? CHANGES : CHANGES - 1);
        if (image.channels != 3 && chosen >= COLOUR) chosen++;
        change = static_cast<Change>(chosen);
        const float strength = uniform(strength_draw.words[0]);
        const float turned = strength_draw.words[1] >> 31 ? strength : -strength;
        factor = 1.0f + turned * 0.9f;
        if (change == TRANSLATE_X) shift_x = turned * (10.0f / 32.0f) * image.width;
        if (change == TRANSLATE_Y) shift_y = turned * (10.0f / 32.0f) * image.height;
        if (change == SHEAR_X) xy = turned * 0.3f;
        if (change == SHEAR_Y) yx = turned * 0.3f;
        if (change == ROTATE) {
            const float angle = turned * 30.0f * 0.017453292f;
            xx = yy = cosf(angle), xy = sinf(angle), yx = -xy;
        }
        const int pixels = image.height * image.width;
        if (change == CONTRAST) {
            int sum = 0;
            for (int i = threadIdx.x; i < pixels; i += BLOCK)
                sum += static_cast<int>(image.grey(i / image.width, i % image.width));
            atomicAdd(grey_sum, sum);
            __syncthreads();
        }
        if (change == AUTO_CONTRAST || change == EQUALIZE) {
            for (int i = threadIdx.x; i < pixels * image.channels; i += BLOCK)
                atomicAdd(&histogram[i % image.channels][image.levels[i]], 1);
            __syncthreads();
        }
        const float middle = change == CONTRAST ? rintf(static_cast<float>(*grey_sum) / pixels) : 0.0f;
        const int mask = 0xff << static_cast<int>(rintf(strength * 4.0f));
        const float threshold = 256.0f * (1.0f - strength);
        for (int i = threadIdx.x; i < image.channels * LEVELS; i += BLOCK) {
            const int channel = i / LEVELS, level = i % LEVELS;
            int to = level;
            if (change == BRIGHTNESS || change == CONTRAST) to = enhanced(level, middle, factor);
            if (change == POSTERIZE) to = level & mask;
            if (change == SOLARIZE) to = level >= threshold ? 255 - level : level;
            if (change == AUTO_CONTRAST || change == EQUALIZE) to = spread(histogram[channel], level, pixels);
            table[channel][level] = to;
        }
        __syncthreads();
    }

    // Returns a level after AUTO_CONTRAST or EQUALIZE of a channel with the given histogram.
    __device__ __forceinline__ int spread(const int* histogram, int level, int pixels) const {
        int low = LEVELS, high = 0, before = 0;
        for (int i = 0; i < LEVELS; i++)
            if (histogram[i]) {
                low = min(low, i);
                high = i;
                if (i < level) before += histogram[i];
            }
        if (change == AUTO_CONTRAST)
            return high > low && level >= low && level <= high
                       ? static_cast<int>(floorf((level - low) * (255.0f / (high - low)) + 1e-3f))
                       : level;
        const int step = (pixels - histogram[high]) / 255;
        return step ? min((step / 2 + before) / step, 255) : level;
    }

    // Returns the level at a position after the transformation.
    __device__ __forceinline__ int at(int row, int column, int channel) const {
        if (change >= TRANSLATE_X && change <= ROTATE) {
            const float x = column - (image.width - 1) / 2.0f, y = row - (image.height - 1) / 2.0f;
            const int from_column = static_cast<int>(floorf(xx * x + xy * y + shift_x + image.width / 2.0f));
            const int from_row = static_cast<int>(floorf(yx * x + yy * y + shift_y + image.height / 2.0f));
            const bool inside =
                from_row >= 0 && from_row < image.height && from_column >= 0 && from_column < image.width;
            return inside ? image.at(from_row, from_column, channel) : 0;
        }
        const int level = image.at(row, column, channel);
        if (change == COLOUR) return enhanced(level, image.grey(row, column), factor);
        if (change == SHARPNESS) {
            int smooth = level;
            if (row > 0 && row < image.height - 1 && column > 0 && column < image.width - 1) {
                int around = 4 * level;
                for (int i = 0; i < 9; i++) around += image.at(row - 1 + i / 3, column - 1 + i % 3, channel);
                smooth = static_cast<int>(rintf(around / 13.0f));
            }
            return enhanced(level, smooth, factor);
        }
        return table[channel][level];
    }
};
