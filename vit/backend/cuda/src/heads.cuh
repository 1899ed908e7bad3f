// Queries, keys and values of one head of one image, read from the product of tokens and qkv weights, without bias.

enum Part { QUERY, KEY, VALUE };

struct Rotation {
    const float *cos, *sin;  // (N, K / 2), null where nothing turns
    int prefix;              // tokens before the first that turns

    // Rotates pairs (2j, 2j+1) of a token: (a, b) to (a cos - b sin, a sin + b cos); with BACK, by the opposite angle.
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
    int64 image;        // among those of all runs
    int64 offset;       // of this head's queries of token 0 in qkv (R, B, T, 3, H, K)
    const float* bias;  // of this head's queries
    Rotation rotation;
    float scale;
    int tokens, heads, head_width;

    // Of the block's image and head: blockIdx.x = image H + head, blockIdx.z = run.
    __device__ __forceinline__ Head(const float* all_bias, int64 bias_stride, Rotation rotation, float scale,
                                    int tokens, int heads, int head_width)
        : rotation(rotation), scale(scale), tokens(tokens), heads(heads), head_width(head_width) {
        head = blockIdx.x % heads;
        image = blockIdx.z * static_cast<int64>(gridDim.x / heads) + blockIdx.x / heads;
        offset = image * tokens * 3 * heads * head_width + head * head_width;
        bias = all_bias + blockIdx.z * bias_stride + head * head_width;
    }

    // Offset of V elements of a part in qkv.
    __device__ __forceinline__ int64 at(Part part, int token, int dim) const {
        return offset + (static_cast<int64>(token) * 3 + part) * heads * head_width + dim;
    }

    // Offset of V elements in mixed (R, B, T, H K).
    __device__ __forceinline__ int64 at_mixed(int token, int dim) const {
        return ((image * tokens + token) * heads + head) * head_width + dim;
    }

    // Reads V elements with the bias added, queries scaled, and queries and keys rotated; 0 outside.
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

    // Converts V elements of a gradient to the gradient of qkv, in place, and writes them.
    template <int V>
    __device__ __forceinline__ void write_gradient(T* dqkv, Part part, int token, int dim, float (&dx)[V]) const {
        if (part != VALUE) rotation.turn<true>(token, head_width, dim, dx);
#pragma unroll
        for (int i = 0; i < V; i++) dx[i] *= part == QUERY ? scale : 1.0f;
        store(dqkv + at(part, token, dim), dx);
    }

    // V elements of an array (R, B, T, H K); 0 outside.
    template <int V>
    __device__ __forceinline__ void read_mixed(const T* mixed, int token, int dim, float (&x)[V]) const {
        if (token < tokens && dim < head_width) {
            load(mixed + at_mixed(token, dim), x);
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) x[i] = 0.0f;
        }
    }

    // Offset of a token's log-sum-exp in (R, B, H, T).
    __device__ __forceinline__ int64 at_logsumexp(int token) const {
        return (image * heads + head) * tokens + token;
    }
};
