// Access to the queries, keys and values of one head of one image. They are stored as the product of the tokens and the
// qkv weights, without bias.

enum Part { QUERY, KEY, VALUE };

struct Rotation {
    const float *cos, *sin;  // (R or 1, H or 1, N, K / 2), null if nothing is rotated
    int64 run_stride;        // elements between the tables of two runs, 0 if they share one
    int64 head_stride;       // elements between the tables of two heads, 0 if they share one
    int prefix;              // number of tokens before the first rotated one

    // Returns the rotation with the tables (N, K / 2) of one head of one run.
    __device__ __forceinline__ Rotation of(int run, int head) const {
        const int64 at = run * run_stride + head * head_stride;
        return {cos ? cos + at : cos, cos ? sin + at : sin, 0, 0, prefix};
    }

    // Rotates the pairs of channels (2j, 2j+1) of a token: (a, b) becomes (a cos - b sin, a sin + b cos). With BACK,
    // the angle has the opposite sign.
    template <bool BACK, int V>
    __device__ __forceinline__ void turn(int token, int head_width, int dim, float (&x)[V]) const {
        if (!cos || token < prefix) return;
        const int at = ((token - prefix) * head_width + dim) / 2;
#pragma unroll
        for (int i = 0; i < V; i += 2) {
            const float c = cos[at + i / 2], s = BACK ? -sin[at + i / 2] : sin[at + i / 2];
            const float even = x[i] * c - x[i + 1] * s;
            x[i + 1] = x[i] * s + x[i + 1] * c;
            x[i] = even;
        }
    }
};

template <typename T>
struct Head {
    int head;
    int64 image;        // index among the images of all runs
    int64 offset;       // offset of the queries of this head at token 0 in qkv (R, B, T, 3, H, K)
    const float* bias;  // bias of the queries of this head
    Rotation rotation;
    float scale;
    int tokens, heads, head_width;

    // Selects the image and head of the thread block: blockIdx.x = image H + head, blockIdx.z = run.
    __device__ __forceinline__ Head(const float* all_bias, int64 bias_stride, const Rotation& all_rotations,
                                    float scale, int tokens, int heads, int head_width)
        : scale(scale), tokens(tokens), heads(heads), head_width(head_width) {
        head = blockIdx.x % heads;
        rotation = all_rotations.of(blockIdx.z, head);
        select(blockIdx.z * static_cast<int64>(gridDim.x / heads) + blockIdx.x / heads);
        bias = all_bias + blockIdx.z * bias_stride + head * head_width;
    }

    // Selects another image, by its index among the images of all runs.
    __device__ __forceinline__ void select(int64 index) {
        image = index;
        offset = image * tokens * 3 * heads * head_width + head * head_width;
    }

    // Returns the offset in qkv of channel `dim` of one part of a token.
    __device__ __forceinline__ int64 at(Part part, int token, int dim) const {
        return offset + (static_cast<int64>(token) * 3 + part) * heads * head_width + dim;
    }

    // Returns the offset of channel `dim` of a token in the attention output (R, B, T, H K).
    __device__ __forceinline__ int64 at_mixed(int token, int dim) const {
        return ((image * tokens + token) * heads + head) * head_width + dim;
    }

    // Reads V elements and adds the bias, scales queries, and rotates queries and keys. The result is 0 if the token or
    // the channel is out of range.
    template <int V>
    __device__ __forceinline__ void read(const T* qkv, Part part, int token, int dim, float (&x)[V]) const {
        if (token >= tokens || dim >= head_width) {
#pragma unroll
            for (int i = 0; i < V; i++) x[i] = 0.0f;
            return;
        }
        float added[V];
        load(qkv + at(part, token, dim), x);
        load(bias + part * heads * head_width + dim, added);
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = (x[i] + added[i]) * (part == QUERY ? scale : 1.0f);
        if (part != VALUE) rotation.turn<false>(token, head_width, dim, x);
    }

    // Converts V elements of a gradient to the gradient of qkv in place, and writes them to dqkv.
    template <int V>
    __device__ __forceinline__ void write_gradient(T* dqkv, Part part, int token, int dim, float (&dx)[V]) const {
        if (part != VALUE) rotation.turn<true>(token, head_width, dim, dx);
#pragma unroll
        for (int i = 0; i < V; i++) dx[i] *= part == QUERY ? scale : 1.0f;
        store(dqkv + at(part, token, dim), dx);
    }

    // Reads V elements of an array (R, B, T, H K). The result is 0 if the token or the channel is out of range.
    template <int V>
    __device__ __forceinline__ void read_mixed(const T* mixed, int token, int dim, float (&x)[V]) const {
        if (token < tokens && dim < head_width) {
            load(mixed + at_mixed(token, dim), x);
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) x[i] = 0.0f;
        }
    }

    // Returns the offset of the log-sum-exp of a token in an array (R, B, H, T).
    __device__ __forceinline__ int64 at_logsumexp(int token) const {
        return (image * heads + head) * tokens + token;
    }
};

// Bias of the scores (R or 1, H, T, T) of the head of the thread block. If not GIVEN, nothing is read or added.
template <bool GIVEN>
struct ScoreBias {
    const float* bias;  // (T, T) of the head
    int tokens;

    template <typename T>
    __device__ __forceinline__ ScoreBias(const float* all, int64 run_stride, const Head<T>& head)
        : bias(all), tokens(head.tokens) {
        if constexpr (GIVEN)
            bias += blockIdx.z * run_stride + static_cast<int64>(head.head) * tokens * tokens;
    }

    // Adds the bias to a score, unless one of the tokens is out of range.
    __device__ __forceinline__ void add(float& score, int query, int key) const {
        if constexpr (GIVEN)
            if (query < tokens && key < tokens) score += bias[query * tokens + key];
    }
};
