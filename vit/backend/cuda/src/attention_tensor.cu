// Attention in bf16 on tensor cores, with float32 accumulators and a float32 softmax. A thread block processes one head
// of one image and up to 128 of its tokens; a warp processes 16 of them. Shared memory holds the keys and values of all
// tokens of the image and, in the backward pass, also the queries and output gradients. Scores are kept in registers:
// the forward pass uses the online softmax of Dao 2023 (arXiv 2307.08691), and the backward pass recomputes the scores.
// With BIASED, a bias (R or 1, H, T, T) is added to the scores.

#include "common.cuh"
#include "heads.cuh"
#include "mma.cuh"
#include "tiles.cuh"

// Forward pass. Writes the output (R, B, T, H K) and the log-sum-exp of the scores (R, B, H, T).
// Grid: (B H, tiles of blockDim.x / 2 tokens, R). Dynamic shared memory: (2 padded(T) + blockDim.x / 2) STRIDE bf16.
template <int WIDTH, bool BIASED>
__global__ void __launch_bounds__(32 * MOST_WARPS)
    attention_tensor(const bf16* qkv, const float* bias, int64 bias_stride, const float* cos, const float* sin,
                     int64 run_stride, int64 head_stride, int prefix, float scale, const float* score_bias,
                     int64 score_bias_stride, bf16* out, float* logsumexp, int tokens, int heads, int head_width) {
    extern __shared__ __align__(16) unsigned char shared[];
    const Head<bf16> head(bias, bias_stride, {cos, sin, run_stride, head_stride, prefix}, scale, tokens, heads,
                          head_width);
    const ScoreBias<BIASED> biases(score_bias, score_bias_stride, head);
    const int rows = padded(tokens), own = blockDim.x / 2, tile = blockIdx.y * own;
    bf16* keys = reinterpret_cast<bf16*>(shared);
    bf16* values = keys + rows * STRIDE<WIDTH>;
    bf16* queries = values + rows * STRIDE<WIDTH>;
    stage<WIDTH>(head, qkv, KEY, 0, rows, keys);
    stage<WIDTH>(head, qkv, VALUE, 0, rows, values);
    stage<WIDTH>(head, qkv, QUERY, tile, own, queries);
    __syncthreads();
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int first = tile + warp * TILE;
    if (first >= tokens) return;

    uint32 query[WIDTH / 16][4];
    left_factor<WIDTH>(query, queries, warp * TILE);
    float mixed[WIDTH / 8][4] = {}, largest[2] = {-infinity(), -infinity()}, total[2] = {};
    constexpr int STEPS = 4;  // the running maximum is updated once per 64 keys
    for (int chunk = 0; chunk < tokens; chunk += STEPS * TILE) {
        float score[STEPS][2][4], top[2] = {largest[0], largest[1]};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const int key = chunk + step * TILE;
            if (key < tokens) scores_of<WIDTH>(score[step], query, keys, key);
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int column = key + n * 8 + 2 * t + i % 2;
                    biases.add(score[step][n][i], first + g + i / 2 * 8, column);
                    if (column >= tokens) score[step][n][i] = -infinity();
                    top[i / 2] = fmaxf(top[i / 2], score[step][n][i]);
                }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            top[i] = max_lanes<4>(top[i]);
            const float shrink = power_of_two((largest[i] - top[i]) * LOG2_E);
            largest[i] = top[i];
            total[i] *= shrink;
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++) mixed[n][2 * i] *= shrink, mixed[n][2 * i + 1] *= shrink;
        }
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if (chunk + step * TILE >= tokens) break;
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    score[step][n][i] = power_of_two(fmaf(score[step][n][i], LOG2_E, -top[i / 2] * LOG2_E));
                    total[i / 2] += score[step][n][i];
                }
            mix<WIDTH>(mixed, score[step], values, chunk + step * TILE);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] = sum_lanes<4>(total[i]);
        const float inverse = 1.0f / total[i];
        const int token = first + g + 8 * i;
        if (token >= tokens) continue;
        if (t == 0) logsumexp[head.at_logsumexp(token)] = largest[i] + logf(total[i]);
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            const float pair[2] = {mixed[n][2 * i] * inverse, mixed[n][2 * i + 1] * inverse};
            if (n * 8 + 2 * t < head_width) store(out + head.at_mixed(token, n * 8 + 2 * t), pair);
        }
    }
}

// Writes the gradient of the warp's 16 tokens to dqkv, and the column sums of the gradient over these tokens to
// sums (WIDTH,).
template <int WIDTH>
__device__ __forceinline__ void finish(const Head<bf16>& head, bf16* dqkv, Part part, int first,
                                       const float (&d)[WIDTH / 8][4], float* sums) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
        const int dim = n * 8 + 2 * t;
        float sum[2] = {};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float pair[2] = {d[n][2 * i], d[n][2 * i + 1]};
            const int token = first + g + 8 * i;
            if (token < head.tokens && dim < head.head_width) {
                head.write_gradient(dqkv, part, token, dim, pair);
                sum[0] += pair[0], sum[1] += pair[1];
            }
        }
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) {
            sum[0] += __shfl_xor_sync(ALL_LANES, sum[0], offset);
            sum[1] += __shfl_xor_sync(ALL_LANES, sum[1], offset);
        }
        if (g == 0) sums[dim] = sum[0], sums[dim + 1] = sum[1];
    }
    __syncwarp();  // the warp-level instructions that follow require all lanes
}

// Backward pass. The grid is that of attention_tensor. In the first pass, each warp holds 16 keys and values in
// registers and iterates over all queries to compute dk and dv. In the second pass, it holds 16 queries and iterates
// over all keys to compute dq. The sums of the gradient over the tokens of each block are written to
// parts (R, B gridDim.y, 3 H K).
// Dynamic shared memory: 2 padded(T) floats, and 4 padded(T) STRIDE bf16 if `resident`, otherwise 2 padded(T) STRIDE
// bf16. If not resident, the queries and output gradients overwrite the keys and values, which are loaded again for the
// second pass.
template <int WIDTH, bool BIASED>
__global__ void __launch_bounds__(32 * MOST_WARPS, WIDTH > 32 ? 1 : 2)
    attention_tensor_backward(const bf16* dout, const bf16* qkv, const float* bias, int64 bias_stride,
                              const float* cos, const float* sin, int64 run_stride, int64 head_stride, int prefix,
                              float scale, const float* score_bias, int64 score_bias_stride, const bf16* out,
                              const float* logsumexp, bf16* dqkv, float* parts, int resident, int tokens, int heads,
                              int head_width) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ float sums[MOST_WARPS][3][WIDTH];
    const Head<bf16> head(bias, bias_stride, {cos, sin, run_stride, head_stride, prefix}, scale, tokens, heads,
                          head_width);
    const ScoreBias<BIASED> biases(score_bias, score_bias_stride, head);
    const int rows = padded(tokens), area = rows * STRIDE<WIDTH>;
    bf16* keys = reinterpret_cast<bf16*>(shared);
    bf16* values = keys + area;
    bf16* queries = resident ? values + area : keys;
    bf16* gradients = queries + area;  // gradients of the attention output
    float* normaliser = reinterpret_cast<float*>(gradients + area);
    float* delta = normaliser + rows;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int first = (blockIdx.y * (blockDim.x / 32) + warp) * TILE;
    const int inside = min(first, rows - TILE);  // a warp without tokens computes on the last tile and writes nothing

    stage<WIDTH>(head, qkv, KEY, 0, rows, keys);
    stage<WIDTH>(head, qkv, VALUE, 0, rows, values);
    uint32 key[WIDTH / 16][4], value[WIDTH / 16][4];
    if (!resident) {
        __syncthreads();
        left_factor<WIDTH>(key, keys, inside);
        left_factor<WIDTH>(value, values, inside);
        __syncthreads();
    }
    stage<WIDTH>(head, qkv, QUERY, 0, rows, queries);
    stage_gradients<WIDTH>(head, dout, out, logsumexp, 0, rows, gradients, normaliser, delta);
    __syncthreads();
    if (resident) {
        left_factor<WIDTH>(key, keys, inside);
        left_factor<WIDTH>(value, values, inside);
    }
    {
        float dkey[WIDTH / 8][4] = {}, dvalue[WIDTH / 8][4] = {};
        for (int query = 0; query < rows; query += TILE) {
            float p[2][4], dp[2][4];  // rows are keys, columns are queries
            scores_of<WIDTH>(p, key, queries, query);
            scores_of<WIDTH>(dp, value, gradients, query);
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int at = query + n * 8 + 2 * t + i % 2;
                    biases.add(p[n][i], at, inside + g + i / 2 * 8);
                    softmax_backward(p[n][i], dp[n][i], normaliser[at], delta[at]);
                }
            mix<WIDTH>(dvalue, p, gradients, query);
            mix<WIDTH>(dkey, dp, queries, query);
        }
        finish<WIDTH>(head, dqkv, KEY, first, dkey, sums[warp][KEY]);
        finish<WIDTH>(head, dqkv, VALUE, first, dvalue, sums[warp][VALUE]);
    }
    {
        uint32 query[WIDTH / 16][4], gradient[WIDTH / 16][4];
        left_factor<WIDTH>(query, queries, inside);
        left_factor<WIDTH>(gradient, gradients, inside);
        if (!resident) {
            __syncthreads();
            stage<WIDTH>(head, qkv, KEY, 0, rows, keys);
            stage<WIDTH>(head, qkv, VALUE, 0, rows, values);
            __syncthreads();
        }
        float dquery[WIDTH / 8][4] = {}, own_normaliser[2], own_delta[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int token = first + g + 8 * i;
            own_normaliser[i] = token < rows ? normaliser[token] : infinity();
            own_delta[i] = token < rows ? delta[token] : 0.0f;
        }
        for (int key = 0; key < rows; key += TILE) {
            float p[2][4], dp[2][4];
            scores_of<WIDTH>(p, query, keys, key);
            scores_of<WIDTH>(dp, gradient, values, key);
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int column = key + n * 8 + 2 * t + i % 2;
                    biases.add(p[n][i], first + g + i / 2 * 8, column);
                    softmax_backward(p[n][i], dp[n][i], own_normaliser[i / 2], own_delta[i / 2]);
                    if (column >= tokens) dp[n][i] = 0.0f;
                }
            mix<WIDTH>(dquery, dp, keys, key);
        }
        finish<WIDTH>(head, dqkv, QUERY, first, dquery, sums[warp][QUERY]);
    }
    __syncthreads();

    const int64 part = head.image * gridDim.y + blockIdx.y;
    for (int i = threadIdx.x; i < 3 * head_width; i += blockDim.x) {
        const int which = i / head_width, column = i % head_width;
        float total = 0.0f;
        for (int w = 0; w < blockDim.x / 32; w++) total += sums[w][which][column];
        parts[(part * 3 + which) * heads * head_width + head.head * head_width + column] = total;
    }
}
