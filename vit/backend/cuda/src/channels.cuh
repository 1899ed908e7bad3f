// Attention in float32: four adjacent threads process one token, each of them 4 of every 16 channels.

constexpr int ROWS = BLOCK / 4;

// Channels of a token that this thread holds in registers: CHUNKS groups of 4 adjacent channels. Group c begins at
// channel (4 c + threadIdx.x % 4) 4. The padded head width is WIDTH = 16 CHUNKS >= head width.
template <int CHUNKS>
struct Channels {
    float x[CHUNKS][4];

    template <typename Read>
    __device__ __forceinline__ void read(Read read) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) read((4 * c + threadIdx.x % 4) * 4, x[c]);
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[c][i] = 0.0f;
    }

    __device__ __forceinline__ void stage(float* row) const {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) store(row + (4 * c + threadIdx.x % 4) * 4, x[c]);
    }

    // Returns the dot product of the token and a row in shared memory, in all four threads of the token.
    __device__ __forceinline__ float dot(const float* row) const {
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            float y[4];
            load(row + (4 * c + threadIdx.x % 4) * 4, y);
#pragma unroll
            for (int i = 0; i < 4; i++) sum = fmaf(x[c][i], y[i], sum);
        }
        return sum_lanes<4>(sum);
    }

    __device__ __forceinline__ void scale(float factor) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[c][i] *= factor;
    }

    // x += factor row, with the row in shared memory.
    __device__ __forceinline__ void add(float factor, const float* row) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            float y[4];
            load(row + (4 * c + threadIdx.x % 4) * 4, y);
#pragma unroll
            for (int i = 0; i < 4; i++) x[c][i] = fmaf(factor, y[i], x[c][i]);
        }
    }
};
