// Depthwise 3 x 3 convolution of patch tokens, added to them. Arrays of tokens are (R, B, T, D) in float32; the patches
// form a g x g grid and follow `prefix` other tokens, which are copied. Weights are (R, D, 3, 3).
//
// A thread processes one channel of one row of patches at a time; adjacent threads process adjacent channels. It slides
// a window of 3 x 3 patches along the row. After the rows of patches of an image comes its row of prefix tokens.

#include "common.cuh"
#include "columns.cuh"

constexpr int TAPS = 9;

// Window around a patch: element 3 i + j is i - 1 rows below and j - 1 columns to the right. Outside the grid it is 0.
struct Window {
    float x[TAPS];
    const float* from;  // the channel at the first patch of the image
    int row, grid, width;

    __device__ __forceinline__ Window(const float* from, int row, int grid, int width)
        : from(from), row(row), grid(grid), width(width) {
#pragma unroll
        for (int i = 0; i < TAPS; i++) x[i] = 0.0f;
        advance(-2);
    }

    // Moves from column `column` to the next.
    __device__ __forceinline__ void advance(int column) {
#pragma unroll
        for (int i = 0; i < 3; i++) {
            const int line = row + i - 1, next = column + 2;
            x[3 * i] = x[3 * i + 1];
            x[3 * i + 1] = x[3 * i + 2];
            x[3 * i + 2] = line >= 0 && line < grid && next >= 0 && next < grid
                               ? from[(static_cast<int64>(line) * grid + next) * width]
                               : 0.0f;
        }
    }
};

// Place of a row of patches of an image of this run.
struct Line {
    int64 tokens;  // offset of the channel at the first token of the image
    int row;       // row of patches; g for the prefix

    __device__ __forceinline__ Line(int unit, int lines, int images, int count, int width, int channel) {
        tokens = (blockIdx.z * static_cast<int64>(images) + unit / lines) * count * width + channel;
        row = unit % lines;
    }
};

// out = x + conv(x) + bias. Grid: (parts of the B lines rows, tiles of channels, R).
__global__ void __launch_bounds__(BLOCK)
    add_depthwise_conv(const float* x, const float* weight, int64 weight_stride, const float* bias, int64 bias_stride,
                       float* out, int prefix, int images, int tokens, int grid, int width) {
    const int lines = grid + (prefix > 0);
    const Tile<1> tile(blockIdx.y, blockIdx.x, gridDim.x, images * lines);
    if (tile.column >= width) return;
    float taps[TAPS];
#pragma unroll
    for (int i = 0; i < TAPS; i++) taps[i] = weight[blockIdx.z * weight_stride + tile.column * TAPS + i];
    const float added = bias[blockIdx.z * bias_stride + tile.column];
    for (int unit = tile.first; unit < tile.last; unit += tile.groups) {
        const Line line(unit, lines, images, tokens, width, tile.column);
        if (line.row == grid) {
            for (int token = 0; token < prefix; token++)
                out[line.tokens + token * width] = x[line.tokens + token * width];
            continue;
        }
        const int64 first = line.tokens + static_cast<int64>(prefix) * width;
        Window window(x + first, line.row, grid, width);
        for (int column = 0; column < grid; column++) {
            window.advance(column - 1);
            float sum = added;
#pragma unroll
            for (int i = 0; i < TAPS; i++) sum = fmaf(taps[i], window.x[i], sum);
            out[first + (static_cast<int64>(line.row) * grid + column) * width] = window.x[TAPS / 2] + sum;
        }
    }
}

// out = gradient of x, given the gradient dy of the result. Writes the sums for the weights over the rows of each part
// to dweights (R, gridDim.x, D, 3, 3), and those for the biases to dbiases (R, gridDim.x, D). The grid is that of
// add_depthwise_conv.
__global__ void __launch_bounds__(BLOCK)
    add_depthwise_conv_backward(const float* dy, const float* x, const float* weight, int64 weight_stride, float* out,
                                float* dweights, float* dbiases, int prefix, int images, int tokens, int grid,
                                int width) {
    __shared__ float sums[BLOCK][TAPS + 1];
    const int lines = grid + (prefix > 0);
    const Tile<1> tile(blockIdx.y, blockIdx.x, gridDim.x, images * lines);
    float taps[TAPS], dtaps[TAPS] = {}, dbias = 0.0f;
    if (tile.column < width) {
#pragma unroll
        for (int i = 0; i < TAPS; i++) taps[i] = weight[blockIdx.z * weight_stride + tile.column * TAPS + i];
        for (int unit = tile.first; unit < tile.last; unit += tile.groups) {
            const Line line(unit, lines, images, tokens, width, tile.column);
            if (line.row == grid) {
                for (int token = 0; token < prefix; token++)
                    out[line.tokens + token * width] = dy[line.tokens + token * width];
                continue;
            }
            const int64 first = line.tokens + static_cast<int64>(prefix) * width;
            Window gradient(dy + first, line.row, grid, width), input(x + first, line.row, grid, width);
            for (int column = 0; column < grid; column++) {
                gradient.advance(column - 1);
                input.advance(column - 1);
                const float own = gradient.x[TAPS / 2];
                float sum = own;
#pragma unroll
                for (int i = 0; i < TAPS; i++) {
                    sum = fmaf(taps[TAPS - 1 - i], gradient.x[i], sum);
                    dtaps[i] = fmaf(own, input.x[i], dtaps[i]);
                }
                dbias += own;
                out[first + (static_cast<int64>(line.row) * grid + column) * width] = sum;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < TAPS; i++) sums[threadIdx.x][i] = dtaps[i];
    sums[threadIdx.x][TAPS] = dbias;
    __syncthreads();
    const int64 part = static_cast<int64>(blockIdx.z) * gridDim.x + blockIdx.x;
    for (int i = threadIdx.x; i < COLUMN_LANES<1> * (TAPS + 1); i += BLOCK) {
        const int lane = i / (TAPS + 1), tap = i % (TAPS + 1), channel = blockIdx.y * TILE_COLUMNS<1> + lane;
        if (channel >= width) continue;
        float total = 0.0f;
        for (int group = 0; group < BLOCK / COLUMN_LANES<1>; group++)
            total += sums[group * COLUMN_LANES<1> + lane][tap];
        if (tap < TAPS) {
            dweights[(part * width + channel) * TAPS + tap] = total;
        } else {
            dbiases[part * width + channel] = total;
        }
    }
}
