// Gradient of the bias of the scores of attention in bf16: the sum over the images of the gradients of the scores, which
// are computed again on tensor cores. A thread block processes one head, up to 128 queries, up to 128 keys and one part
// of the images. A warp holds the sums of 16 queries in registers.

#include "common.cuh"
#include "heads.cuh"
#include "mma.cuh"
#include "tiles.cuh"

constexpr int KEY_TILES = 8, KEYS = KEY_TILES * TILE;

// Writes the sums over the images of each part to parts (R, number of parts, H, T, T).
// Grid: (parts H, tiles of blockDim.x / 2 queries times tiles of KEYS keys, R).
// Dynamic shared memory: (blockDim.x + 2 min(KEYS, padded(T))) STRIDE bf16, and blockDim.x floats.
template <int WIDTH>
__global__ void __launch_bounds__(32 * MOST_WARPS)
    score_bias_gradient_tensor(const bf16* dout, const bf16* qkv, const float* bias, int64 bias_stride,
                               const float* cos, const float* sin, int64 run_stride, int64 head_stride, int prefix,
                               float scale, const float* score_bias, int64 score_bias_stride, const bf16* out,
                               const float* logsumexp, float* parts, int images, int tokens, int heads,
                               int head_width) {
    extern __shared__ __align__(16) unsigned char shared[];
    Head<bf16> head(bias, bias_stride, {cos, sin, run_stride, head_stride, prefix}, scale, tokens, heads, head_width);
    const ScoreBias<true> biases(score_bias, score_bias_stride, head);
    const int own = blockDim.x / 2, staged = min(KEYS, padded(tokens));
    bf16* queries = reinterpret_cast<bf16*>(shared);
    bf16* gradients = queries + own * STRIDE<WIDTH>;  // gradients of the attention output
    bf16* keys = gradients + own * STRIDE<WIDTH>;
    bf16* values = keys + staged * STRIDE<WIDTH>;
    float* normaliser = reinterpret_cast<float*>(values + staged * STRIDE<WIDTH>);
    float* delta = normaliser + own;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int key_tiles = (tokens + KEYS - 1) / KEYS;
    const int first_query = blockIdx.y / key_tiles * own, first_key = blockIdx.y % key_tiles * KEYS;
    const int count = gridDim.x / heads, part = blockIdx.x / heads, each = (images + count - 1) / count;
    float sums[KEY_TILES][2][4] = {};
    for (int image = part * each; image < min((part + 1) * each, images); image++) {
        head.select(static_cast<int64>(blockIdx.z) * images + image);
        stage<WIDTH>(head, qkv, KEY, first_key, staged, keys);
        stage<WIDTH>(head, qkv, VALUE, first_key, staged, values);
        stage<WIDTH>(head, qkv, QUERY, first_query, own, queries);
        stage_gradients<WIDTH>(head, dout, out, logsumexp, first_query, own, gradients, normaliser, delta);
        __syncthreads();
        uint32 query[WIDTH / 16][4], gradient[WIDTH / 16][4];
        left_factor<WIDTH>(query, queries, warp * TILE);
        left_factor<WIDTH>(gradient, gradients, warp * TILE);
#pragma unroll
        for (int step = 0; step < KEY_TILES; step++) {
            if (first_key + step * TILE >= tokens) break;
            float p[2][4], dp[2][4];
            scores_of<WIDTH>(p, query, keys, step * TILE);
            scores_of<WIDTH>(dp, gradient, values, step * TILE);
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int at = warp * TILE + g + i / 2 * 8;
                    biases.add(p[n][i], first_query + at, first_key + step * TILE + n * 8 + 2 * t + i % 2);
                    softmax_backward(p[n][i], dp[n][i], normaliser[at], delta[at]);
                    sums[step][n][i] += dp[n][i];
                }
        }
        __syncthreads();
    }
    const int64 of = (static_cast<int64>(blockIdx.z) * count + part) * heads + head.head;
#pragma unroll
    for (int step = 0; step < KEY_TILES; step++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = first_query + warp * TILE + g + i / 2 * 8;
                const int key = first_key + step * TILE + n * 8 + 2 * t + i % 2;
                if (at < tokens && key < tokens) parts[(of * tokens + at) * tokens + key] = sums[step][n][i];
            }
}
