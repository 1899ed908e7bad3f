// Gradient of the bias of the scores of attention in float32: the sum over the images of the gradients of the scores,
// which are computed again. A thread block processes one head, 64 queries, 32 keys and one part of the images.

#include "common.cuh"
#include "heads.cuh"
#include "channels.cuh"

constexpr int KEYS = 32;

// Writes the sums over the images of each part to parts (R, number of parts, H, T, T).
// Grid: (parts H, tiles of 64 queries times tiles of KEYS keys, R). Dynamic shared memory: 2 KEYS 16 CHUNKS floats.
template <int CHUNKS>
__global__ void __launch_bounds__(BLOCK)
    score_bias_gradient_float(const float* dout, const float* qkv, const float* bias, int64 bias_stride,
                              const float* cos, const float* sin, int64 run_stride, int64 head_stride, int prefix,
                              float scale, const float* score_bias, int64 score_bias_stride, const float* out,
                              const float* logsumexp, float* parts, int images, int tokens, int heads,
                              int head_width) {
    constexpr int WIDTH = 16 * CHUNKS;
    extern __shared__ __align__(16) float shared_floats[];
    float *keys = shared_floats, *values = keys + KEYS * WIDTH;
    Head<float> head(bias, bias_stride, {cos, sin, run_stride, head_stride, prefix}, scale, tokens, heads, head_width);
    const ScoreBias<true> scores(score_bias, score_bias_stride, head);
    const int key_tiles = (tokens + KEYS - 1) / KEYS, lane = threadIdx.x % 4;
    const int row = threadIdx.x / 4, query = blockIdx.y / key_tiles * ROWS + row;
    const int first_key = blockIdx.y % key_tiles * KEYS;
    const int count = gridDim.x / heads, part = blockIdx.x / heads, each = (images + count - 1) / count;
    float sums[KEYS / 4] = {};  // of the keys first_key + 4 step + lane
    for (int image = part * each; image < min((part + 1) * each, images); image++) {
        head.select(static_cast<int64>(blockIdx.z) * images + image);
        Channels<CHUNKS> q, gradient, staged;
        const Part staged_part = row < KEYS ? KEY : VALUE;
        staged.read([&](int dim, float (&x)[4]) { head.read(qkv, staged_part, first_key + row % KEYS, dim, x); });
        staged.stage((row < KEYS ? keys : values) + row % KEYS * WIDTH);
        q.read([&](int dim, float (&x)[4]) { head.read(qkv, QUERY, query, dim, x); });
        gradient.read([&](int dim, float (&x)[4]) { head.read_mixed(dout, query, dim, x); });
        float product = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            float y[4];
            head.read_mixed(out, query, (4 * c + lane) * 4, y);
#pragma unroll
            for (int i = 0; i < 4; i++) product += gradient.x[c][i] * y[i];
        }
        const float delta = sum_lanes<4>(product);
        const float normaliser = query < tokens ? logsumexp[head.at_logsumexp(query)] : infinity();
        __syncthreads();
#pragma unroll
        for (int step = 0; step < KEYS / 4; step++) {
            float score = 0.0f, dp = 0.0f;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float s = q.dot(keys + (4 * step + i) * WIDTH);
                const float d = gradient.dot(values + (4 * step + i) * WIDTH);
                if (lane == i) score = s, dp = d;
            }
            scores.add(score, query, first_key + 4 * step + lane);
            sums[step] += expf(score - normaliser) * (dp - delta);
        }
        __syncthreads();
    }
    if (query >= tokens) return;
    const int64 of = (static_cast<int64>(blockIdx.z) * count + part) * heads + head.head;
    float* to = parts + (of * tokens + query) * tokens;
#pragma unroll
    for (int step = 0; step < KEYS / 4; step++) {
        const int key = first_key + 4 * step + lane;
        if (key < tokens) to[key] = sums[step];
    }
}
