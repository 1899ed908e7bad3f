// Attention on tensor cores: a warp processes tiles of 16 tokens, which are bf16 in shared memory.

constexpr int TILE = 16;      // tokens per warp
constexpr int MOST_WARPS = 8;
constexpr float LOG2_E = 1.44269504f;

// Distance between rows in shared memory, in elements. WIDTH is the head width, padded to a multiple of 16. The padding
// of 16 bytes per row avoids bank conflicts between 8 consecutive rows.
template <int WIDTH>
constexpr int STRIDE = WIDTH + 8;

__device__ __forceinline__ int padded(int tokens) { return (tokens + TILE - 1) / TILE * TILE; }

// Copies `count` tokens of one part of the head, beginning with token `first`, to shared memory. Rows after the last
// token are filled with zeros. Eight adjacent threads copy one row.
template <int WIDTH>
__device__ __forceinline__ void stage(const Head<bf16>& head, const bf16* qkv, Part part, int first, int count,
                                      bf16* to) {
    const int dim = threadIdx.x % 8 * 8;
    if (dim >= WIDTH) return;
    for (int row = threadIdx.x / 8; row < count; row += blockDim.x / 8) {
        float x[8];
        head.read(qkv, part, first + row, dim, x);
        store(to + row * STRIDE<WIDTH> + dim, x);
    }
}

// Copies the gradients of the attention output of `count` tokens, beginning with token `first`, to shared memory, and
// computes logsumexp / ln 2 and delta of these tokens. Eight adjacent threads process one row.
// delta = sum(dout out) over the channels of a head equals sum(dp p) of the softmax (arXiv 2205.14135, appendix B).
template <int WIDTH>
__device__ __forceinline__ void stage_gradients(const Head<bf16>& head, const bf16* dout, const bf16* out,
                                                const float* logsumexp, int first, int count, bf16* gradients,
                                                float* normaliser, float* delta) {
    const int dim = threadIdx.x % 8 * 8;
    for (int begin = 0; begin < count; begin += blockDim.x / 8) {  // all threads must reach sum_lanes
        const int row = begin + threadIdx.x / 8, token = first + row;
        float d[8], y[8], product = 0.0f;
        head.read_mixed(dout, token, dim, d);
        head.read_mixed(out, token, dim, y);
#pragma unroll
        for (int i = 0; i < 8; i++) product += d[i] * y[i];
        product = sum_lanes<8>(product);
        if (row >= count) continue;
        if (dim < WIDTH) store(gradients + row * STRIDE<WIDTH> + dim, d);
        if (dim == 0) {
            delta[row] = product;
            normaliser[row] = token < head.tokens ? logsumexp[head.at_logsumexp(token)] * LOG2_E : infinity();
        }
    }
}

// Loads 16 tokens, beginning with `token`, from shared memory into registers as the left operand of matrix products.
template <int WIDTH>
__device__ __forceinline__ void left_factor(uint32 (&a)[WIDTH / 16][4], const bf16* from, int token) {
    const int lane = threadIdx.x % 32;
    const bf16* row = from + (token + lane % 16) * STRIDE<WIDTH> + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < WIDTH / 16; k++) load_matrices(a[k], row + k * 16);
}

// d (16 x 16) = a b^T. The rows of b are the 16 tokens in shared memory that begin with `token`.
template <int WIDTH>
__device__ __forceinline__ void scores_of(float (&d)[2][4], const uint32 (&a)[WIDTH / 16][4], const bf16* b, int token) {
    const int lane = threadIdx.x % 32;
    const bf16* row = b + (token + lane / 16 * 8 + lane % 8) * STRIDE<WIDTH> + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) d[n][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < WIDTH / 16; k++) {
        uint32 words[4];
        load_matrices(words, row + k * 16);
        mma_16x8x16(d[0], a[k], words[0], words[1]);
        mma_16x8x16(d[1], a[k], words[2], words[3]);
    }
}

// d (16 x WIDTH) += w b. w (16 x 16) has the register layout that `scores_of` returns. The rows of b are the 16 tokens
// in shared memory that begin with `token`.
template <int WIDTH>
__device__ __forceinline__ void mix(float (&d)[WIDTH / 8][4], const float (&w)[2][4], const bf16* b, int token) {
    const uint32 a[4] = {pack_bf16(w[0][0], w[0][1]), pack_bf16(w[0][2], w[0][3]), pack_bf16(w[1][0], w[1][1]),
                         pack_bf16(w[1][2], w[1][3])};
    const int lane = threadIdx.x % 32;
    const bf16* row = b + (token + lane / 8 % 2 * 8 + lane % 8) * STRIDE<WIDTH> + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n += 2) {
        uint32 words[4];
        load_matrices_transposed(words, row + n * 8);
        mma_16x8x16(d[n], a, words[0], words[1]);
        mma_16x8x16(d[n + 1], a, words[2], words[3]);
    }
}

// Replaces s by p = exp(s - logsumexp), and dp by ds = p (dp - delta). `normaliser` is logsumexp / ln 2.
__device__ __forceinline__ void softmax_backward(float& s, float& dp, float normaliser, float delta) {
    s = power_of_two(fmaf(s, LOG2_E, -normaliser));
    dp = s * (dp - delta);
}
