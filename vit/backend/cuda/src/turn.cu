// Multiplication of groups of channels of queries and keys by a matrix each, in place, for unfused attention. qkv is
// (R, B, T, 3, H, K); the matrices are (R, 1 or H, N, G, M, M) for G groups of M = K / G channels of the N patches, which
// follow `prefix` other tokens. Also adds the bias of queries and keys, and scales the queries; qkv.cu does it for the
// rest.
//
// Groups of up to 8 channels: a thread holds the matrix of one group in registers and iterates over the images of a part.
// Larger groups: a thread block holds it in shared memory.

#include "common.cuh"

// Group of channels of one head of one patch, and the range of images of the part blockIdx.y of gridDim.y.
struct Group {
    int patch, head, column;  // column: first channel of the group among those of all heads
    int64 matrix;             // offset of the matrix of the group
    int64 sum;                // offset of the matrix of the group in parts (R, gridDim.y, H, N, G, M, M)
    int first, last;          // images

    // `index` numbers the groups as (N, H, G).
    __device__ __forceinline__ Group(int index, int heads, int groups, int size, int patches, int64 run_stride,
                                     int head_stride, int images) {
        patch = index / (heads * groups);
        head = index / groups % heads;
        const int group = index % groups, count = gridDim.y, part = blockIdx.y, each = (images + count - 1) / count;
        column = (head * groups + group) * size;
        const int64 place = (static_cast<int64>(patch) * groups + group) * size * size;
        matrix = blockIdx.z * run_stride + static_cast<int64>(head) * head_stride + place;
        const int64 before = (static_cast<int64>(blockIdx.z) * count + part) * heads + head;
        sum = before * patches * groups * size * size + place;
        first = part * each;
        last = min((part + 1) * each, images);
    }
};

// Returns the offset of a channel of the queries (which = 0) or keys (1) of a patch of an image of this run.
__device__ __forceinline__ int64 channel(int image, int images, int tokens, int token, int which, int width,
                                         int column) {
    const int64 row = (blockIdx.z * static_cast<int64>(images) + image) * tokens + token;
    return (row * 3 + which) * width + column;
}

// Grid: (groups (N, H, G) / BLOCK, parts of the images, R).
template <typename T, int M>
__global__ void __launch_bounds__(BLOCK)
    turn(T* qkv, const float* bias, int64 bias_stride, float scale, const float* matrices, int64 run_stride,
         int head_stride, int prefix, int images, int tokens, int heads, int groups) {
    const int index = blockIdx.x * BLOCK + threadIdx.x, width = heads * groups * M, patches = tokens - prefix;
    if (index >= patches * heads * groups) return;
    const Group group(index, heads, groups, M, patches, run_stride, head_stride, images);
    float matrix[M * M], added[2][M];
    load(matrices + group.matrix, matrix);
#pragma unroll
    for (int which = 0; which < 2; which++)
#pragma unroll
        for (int i = 0; i < M; i++) added[which][i] = bias[blockIdx.z * bias_stride + which * width + group.column + i];
    for (int image = group.first; image < group.last; image++)
#pragma unroll
        for (int which = 0; which < 2; which++) {
            T* at = qkv + channel(image, images, tokens, prefix + group.patch, which, width, group.column);
            float x[M], turned[M];
            load(at, x);
#pragma unroll
            for (int i = 0; i < M; i++) x[i] = (x[i] + added[which][i]) * (which ? 1.0f : scale);
#pragma unroll
            for (int i = 0; i < M; i++) {
                turned[i] = 0.0f;
#pragma unroll
                for (int j = 0; j < M; j++) turned[i] = fmaf(matrix[i * M + j], x[j], turned[i]);
            }
            store(at, turned);
        }
}

// Replaces the gradients of turned queries and keys in dqkv by those of the projection, and writes the gradients of the
// matrices, summed over the images of each part, queries and keys, to parts (R, gridDim.y, H, N, G, M, M). qkv is the
// result of turn. The matrices are orthogonal, so the vector before the turn is M^T qkv. The grid is that of turn.
template <typename T, int M>
__global__ void __launch_bounds__(BLOCK)
    turn_backward(const T* qkv, T* dqkv, float scale, const float* matrices, int64 run_stride, int head_stride,
                  float* parts, int prefix, int images, int tokens, int heads, int groups) {
    const int index = blockIdx.x * BLOCK + threadIdx.x, width = heads * groups * M, patches = tokens - prefix;
    if (index >= patches * heads * groups) return;
    const Group group(index, heads, groups, M, patches, run_stride, head_stride, images);
    float matrix[M * M], sums[M * M] = {};
    load(matrices + group.matrix, matrix);
    for (int image = group.first; image < group.last; image++)
#pragma unroll
        for (int which = 0; which < 2; which++) {
            const int64 at = channel(image, images, tokens, prefix + group.patch, which, width, group.column);
            float y[M], dy[M], dx[M];
            load(qkv + at, y);
            load(dqkv + at, dy);
#pragma unroll
            for (int j = 0; j < M; j++) {
                float x = 0.0f;
                dx[j] = 0.0f;
#pragma unroll
                for (int i = 0; i < M; i++) {
                    x = fmaf(matrix[i * M + j], y[i], x);
                    dx[j] = fmaf(matrix[i * M + j], dy[i], dx[j]);
                }
#pragma unroll
                for (int i = 0; i < M; i++) sums[i * M + j] = fmaf(dy[i], x, sums[i * M + j]);
                dx[j] *= which ? 1.0f : scale;
            }
            store(dqkv + at, dx);
        }
    store(parts + group.sum, sums);
}

constexpr int VECTORS = 8;  // queries and keys that a block processes at a time; 2 image + which numbers them

// turn for groups of any size. Grid: (groups (N, H, G), parts of the images, R).
// Dynamic shared memory: size (size + 1) + VECTORS size floats.
template <typename T>
__global__ void __launch_bounds__(BLOCK)
    turn_large(T* qkv, const float* bias, int64 bias_stride, float scale, const float* matrices, int64 run_stride,
               int head_stride, int prefix, int images, int tokens, int heads, int groups, int size) {
    extern __shared__ __align__(16) float shared_floats[];
    float *matrix = shared_floats, *x = matrix + size * (size + 1);
    const int width = heads * groups * size;
    const Group group(blockIdx.x, heads, groups, size, tokens - prefix, run_stride, head_stride, images);
    for (int i = threadIdx.x; i < size * size; i += BLOCK)
        matrix[i / size * (size + 1) + i % size] = matrices[group.matrix + i];
    for (int first = 2 * group.first; first < 2 * group.last; first += VECTORS) {
        const int count = min(VECTORS, 2 * group.last - first) * size;
        for (int i = threadIdx.x; i < count; i += BLOCK) {
            const int vector = first + i / size, which = vector % 2, column = group.column + i % size;
            const T* at = qkv + channel(vector / 2, images, tokens, prefix + group.patch, which, width, column);
            x[i] = (to_float(*at) + bias[blockIdx.z * bias_stride + which * width + column]) * (which ? 1.0f : scale);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += BLOCK) {
            const int vector = first + i / size, column = group.column + i % size;
            const float *row = matrix + i % size * (size + 1), *from = x + i / size * size;
            float sum = 0.0f;
            for (int j = 0; j < size; j++) sum = fmaf(row[j], from[j], sum);
            qkv[channel(vector / 2, images, tokens, prefix + group.patch, vector % 2, width, column)] =
                from_float<T>(sum);
        }
        __syncthreads();
    }
}

// turn_backward for groups of any size. The sums over the images are held in `parts`. The grid is that of turn_large.
// Dynamic shared memory: size (size + 1) + 3 VECTORS size floats.
template <typename T>
__global__ void __launch_bounds__(BLOCK)
    turn_large_backward(const T* qkv, T* dqkv, float scale, const float* matrices, int64 run_stride, int head_stride,
                        float* parts, int prefix, int images, int tokens, int heads, int groups, int size) {
    extern __shared__ __align__(16) float shared_floats[];
    float *matrix = shared_floats, *y = matrix + size * (size + 1), *dy = y + VECTORS * size, *x = dy + VECTORS * size;
    const int width = heads * groups * size;
    const Group group(blockIdx.x, heads, groups, size, tokens - prefix, run_stride, head_stride, images);
    float* sums = parts + group.sum;
    for (int i = threadIdx.x; i < size * size; i += BLOCK) {
        matrix[i / size * (size + 1) + i % size] = matrices[group.matrix + i];
        sums[i] = 0.0f;
    }
    for (int first = 2 * group.first; first < 2 * group.last; first += VECTORS) {
        const int vectors = min(VECTORS, 2 * group.last - first), count = vectors * size;
        for (int i = threadIdx.x; i < count; i += BLOCK) {
            const int vector = first + i / size, column = group.column + i % size;
            const int64 at = channel(vector / 2, images, tokens, prefix + group.patch, vector % 2, width, column);
            y[i] = to_float(qkv[at]);
            dy[i] = to_float(dqkv[at]);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += BLOCK) {
            const int vector = first + i / size, column = group.column + i % size, from = i / size * size;
            float before = 0.0f, dx = 0.0f;
            for (int j = 0; j < size; j++) {
                before = fmaf(matrix[j * (size + 1) + i % size], y[from + j], before);
                dx = fmaf(matrix[j * (size + 1) + i % size], dy[from + j], dx);
            }
            x[i] = before;
            dqkv[channel(vector / 2, images, tokens, prefix + group.patch, vector % 2, width, column)] =
                from_float<T>(dx * (vector % 2 ? 1.0f : scale));
        }
        __syncthreads();
        for (int i = threadIdx.x; i < size * size; i += BLOCK) {
            float sum = sums[i];
            for (int v = 0; v < vectors; v++) sum = fmaf(dy[v * size + i / size], x[v * size + i % size], sum);
            sums[i] = sum;
        }
        __syncthreads();
    }
}
