// Attention in float32. A thread block processes one head of one image and 64 of its tokens. It iterates over all tokens
// in tiles of 64, which are staged in shared memory. With BIASED, a bias (R or 1, H, T, T) is added to the scores.

#include "common.cuh"
#include "heads.cuh"
#include "channels.cuh"

// Forward pass. Writes the output (R, B, T, H K) and the log-sum-exp of the scores (R, B, H, T).
// Grid: (B H, tiles of 64 tokens, R). Dynamic shared memory: 2 ROWS 16 CHUNKS floats.
template <int CHUNKS, bool BIASED>
__global__ void __launch_bounds__(BLOCK)
    attention_float(const float* qkv, const float* bias, int64 bias_stride, const float* cos, const float* sin,
                    int64 run_stride, int64 head_stride, int prefix, float scale, const float* score_bias,
                    int64 score_bias_stride, float* out, float* logsumexp, int tokens, int heads, int head_width) {
    constexpr int WIDTH = 16 * CHUNKS, STEP = 8;
    extern __shared__ __align__(16) float shared_floats[];
    float *keys = shared_floats, *values = keys + ROWS * WIDTH;
    const Head<float> head(bias, bias_stride, {cos, sin, run_stride, head_stride, prefix}, scale, tokens, heads,
                           head_width);
    const ScoreBias<BIASED> scores(score_bias, score_bias_stride, head);
    const int row = threadIdx.x / 4, token = blockIdx.y * ROWS + row;
    Channels<CHUNKS> query, mixed;
    query.read([&](int dim, float (&x)[4]) { head.read(qkv, QUERY, token, dim, x); });
    mixed.clear();
    float largest = -infinity(), total = 0.0f;
    for (int first = 0; first < tokens; first += ROWS) {
        Channels<CHUNKS> staged;
        staged.read([&](int dim, float (&x)[4]) { head.read(qkv, KEY, first + row, dim, x); });
        staged.stage(keys + row * WIDTH);
        staged.read([&](int dim, float (&x)[4]) { head.read(qkv, VALUE, first + row, dim, x); });
        staged.stage(values + row * WIDTH);
        __syncthreads();
        const int count = min(ROWS, tokens - first);
        for (int begin = 0; begin < count; begin += STEP) {
            float score[STEP], top = largest;
#pragma unroll
            for (int j = 0; j < STEP; j++) {
                score[j] = query.dot(keys + (begin + j) * WIDTH);
                scores.add(score[j], token, first + begin + j);
                if (begin + j >= count) score[j] = -infinity();
                top = fmaxf(top, score[j]);
            }
            const float shrink = expf(largest - top);
            largest = top;
            total *= shrink;
            mixed.scale(shrink);
#pragma unroll
            for (int j = 0; j < STEP; j++) {
                const float p = expf(score[j] - top);
                total += p;
                mixed.add(p, values + (begin + j) * WIDTH);
            }
        }
        __syncthreads();
    }
    if (token >= tokens) return;
    mixed.scale(1.0f / total);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const int dim = (4 * c + threadIdx.x % 4) * 4;
        if (dim < head_width) store(out + head.at_mixed(token, dim), mixed.x[c]);
    }
    if (threadIdx.x % 4 == 0) logsumexp[head.at_logsumexp(token)] = largest + logf(total);
}

// Writes the gradient of a token to dqkv, and its sums over the tokens of the block to `to` (head width,).
template <int CHUNKS>
__device__ __forceinline__ void finish(const Head<float>& head, float* dqkv, Part part, int token,
                                       Channels<CHUNKS>& d, float* to) {
    __shared__ float sums[BLOCK / 32][16 * CHUNKS];
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const int dim = (4 * c + threadIdx.x % 4) * 4;
        if (token < head.tokens && dim < head.head_width) {
            head.write_gradient(dqkv, part, token, dim, d.x[c]);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) d.x[c][i] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float sum = d.x[c][i];
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
            if (threadIdx.x % 32 < 4) sums[threadIdx.x / 32][dim + i] = sum;
        }
    }
    __syncthreads();
    if (threadIdx.x < head.head_width) {
        float total = 0.0f;
#pragma unroll
        for (int warp = 0; warp < BLOCK / 32; warp++) total += sums[warp][threadIdx.x];
        to[threadIdx.x] = total;
    }
    __syncthreads();
}

// Backward pass. Grid and dynamic shared memory are those of attention_float. The first pass holds the keys and values
// of the block's tokens in registers and iterates over tiles of queries to compute dk and dv. The second pass holds the
// queries and iterates over tiles of keys to compute dq. The sums of the gradient over the tokens of each block are
// written to parts (R, B gridDim.y, 3 H K).
template <int CHUNKS, bool BIASED>
__global__ void __launch_bounds__(BLOCK, 1)
    attention_float_backward(const float* dout, const float* qkv, const float* bias, int64 bias_stride,
                             const float* cos, const float* sin, int64 run_stride, int64 head_stride, int prefix,
                             float scale, const float* score_bias, int64 score_bias_stride, const float* out,
                             const float* logsumexp, float* dqkv, float* parts, int tokens, int heads,
                             int head_width) {
    constexpr int WIDTH = 16 * CHUNKS;
    extern __shared__ __align__(16) float shared_floats[];
    __shared__ float normaliser[ROWS], delta[ROWS];
    float *left = shared_floats, *right = left + ROWS * WIDTH;
    const Head<float> head(bias, bias_stride, {cos, sin, run_stride, head_stride, prefix}, scale, tokens, heads,
                           head_width);
    const ScoreBias<BIASED> scores(score_bias, score_bias_stride, head);
    const int row = threadIdx.x / 4, token = blockIdx.y * ROWS + row;
    const int64 part = head.image * gridDim.y + blockIdx.y;
    float* to = parts + part * 3 * heads * head_width + head.head * head_width;
    {
        Channels<CHUNKS> key, value, dkey, dvalue;
        key.read([&](int dim, float (&x)[4]) { head.read(qkv, KEY, token, dim, x); });
        value.read([&](int dim, float (&x)[4]) { head.read(qkv, VALUE, token, dim, x); });
        dkey.clear();
        dvalue.clear();
        for (int first = 0; first < tokens; first += ROWS) {
            Channels<CHUNKS> staged;
            staged.read([&](int dim, float (&x)[4]) { head.read(qkv, QUERY, first + row, dim, x); });
            staged.stage(left + row * WIDTH);
            staged.read([&](int dim, float (&x)[4]) { head.read_mixed(dout, first + row, dim, x); });
            staged.stage(right + row * WIDTH);
            float product = 0.0f;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                float y[4];
                head.read_mixed(out, first + row, (4 * c + threadIdx.x % 4) * 4, y);
#pragma unroll
                for (int i = 0; i < 4; i++) product += staged.x[c][i] * y[i];
            }
            product = sum_lanes<4>(product);
            if (threadIdx.x % 4 == 0) delta[row] = product;
            if (threadIdx.x % 4 == 0)
                normaliser[row] = first + row < tokens ? logsumexp[head.at_logsumexp(first + row)] : infinity();
            __syncthreads();
            const int count = min(ROWS, tokens - first);
            for (int j = 0; j < count; j++) {
                float score = key.dot(left + j * WIDTH);
                scores.add(score, first + j, token);
                const float p = expf(score - normaliser[j]);
                const float dp = value.dot(right + j * WIDTH);
                dvalue.add(p, right + j * WIDTH);
                dkey.add(p * (dp - delta[j]), left + j * WIDTH);
            }
            __syncthreads();
        }
        finish(head, dqkv, KEY, token, dkey, to + KEY * heads * head_width);
        finish(head, dqkv, VALUE, token, dvalue, to + VALUE * heads * head_width);
    }
    Channels<CHUNKS> query, gradient, dquery;
    query.read([&](int dim, float (&x)[4]) { head.read(qkv, QUERY, token, dim, x); });
    gradient.read([&](int dim, float (&x)[4]) { head.read_mixed(dout, token, dim, x); });
    dquery.clear();
    float product = 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        float y[4];
        head.read_mixed(out, token, (4 * c + threadIdx.x % 4) * 4, y);
#pragma unroll
        for (int i = 0; i < 4; i++) product += gradient.x[c][i] * y[i];
    }
    const float own_delta = sum_lanes<4>(product);
    const float own_normaliser = token < tokens ? logsumexp[head.at_logsumexp(token)] : infinity();
    for (int first = 0; first < tokens; first += ROWS) {
        Channels<CHUNKS> staged;
        staged.read([&](int dim, float (&x)[4]) { head.read(qkv, KEY, first + row, dim, x); });
        staged.stage(left + row * WIDTH);
        staged.read([&](int dim, float (&x)[4]) { head.read(qkv, VALUE, first + row, dim, x); });
        staged.stage(right + row * WIDTH);
        __syncthreads();
        const int count = min(ROWS, tokens - first);
        for (int j = 0; j < count; j++) {
            float score = query.dot(left + j * WIDTH);
            scores.add(score, token, first + j);
            const float p = expf(score - own_normaliser);
            dquery.add(p * (gradient.dot(right + j * WIDTH) - own_delta), left + j * WIDTH);
        }
        __syncthreads();
    }
    finish(head, dqkv, QUERY, token, dquery, to + QUERY * heads * head_width);
}
