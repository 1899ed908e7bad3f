// Layer normalisation (Ba et al. 2016, arXiv 1607.06450) of a residual stream, fused with the preceding addition of the
// branch output.
// LANES threads process a row; each of them holds PACKS packs of V elements, with LANES PACKS V >= width.
// S is the type of the stream, T the type of the branch and of the normalised output.

#include "common.cuh"

constexpr float EPSILON = 1e-6f;

// stream = x + branch + branch_bias, or x if branch is null; out = (stream - mean) rstd weight + bias.
// The parameters of consecutive runs are `..._stride` elements apart. Grid: (rows / (BLOCK / LANES), R).
template <typename S, typename T, int V, int LANES, int PACKS>
__global__ void __launch_bounds__(BLOCK)
    layer_norm(const S* x, const T* branch, const float* branch_bias, int64 branch_bias_stride, const float* weight,
               int64 weight_stride, const float* bias, int64 bias_stride, S* stream, T* out, float* means,
               float* rstds, int rows, int width) {
    const int lane = threadIdx.x % LANES, row = blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES;
    const int64 run = blockIdx.y, index = run * rows + row;
    const bool active = row < rows;
    float value[PACKS][V], sum = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * LANES + lane) * V;
#pragma unroll
        for (int i = 0; i < V; i++) value[p][i] = 0.0f;
        if (active && column < width) {
            load(x + index * width + column, value[p]);
            if (branch) {
                float added[V], offset[V];
                load(branch + index * width + column, added);
                load(branch_bias + run * branch_bias_stride + column, offset);
#pragma unroll
                for (int i = 0; i < V; i++)  // rounded to S, the type that the backward pass reads
                    value[p][i] = to_float(from_float<S>(value[p][i] + added[i] + offset[i]));
                store(stream + index * width + column, value[p]);
            }
        }
#pragma unroll
        for (int i = 0; i < V; i++) sum += value[p][i];
    }
    const float mean = sum_lanes<LANES>(sum) / width;
    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if ((p * LANES + lane) * V < width)
#pragma unroll
            for (int i = 0; i < V; i++) squares += (value[p][i] - mean) * (value[p][i] - mean);
    const float rstd = rsqrtf(sum_lanes<LANES>(squares) / width + EPSILON);
    if (!active) return;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * LANES + lane) * V;
        if (column < width) {
            float scale[V], offset[V];
            load(weight + run * weight_stride + column, scale);
            load(bias + run * bias_stride + column, offset);
#pragma unroll
            for (int i = 0; i < V; i++) value[p][i] = fmaf((value[p][i] - mean) * rstd, scale[i], offset[i]);
            store(out + index * width + column, value[p]);
        }
    }
    if (lane == 0) means[index] = mean, rstds[index] = rstd;
}

constexpr int WARPS = BLOCK / 32;

// Writes the sums of `sum` over the row groups of the block to `to` (width,). The sums are reduced within each warp
// first, then over the warps in order.
template <int V, int LANES, int PACKS>
__device__ __forceinline__ void write_sums(float (&sum)[PACKS][V], float* to, int width) {
    __shared__ __align__(16) float sums[WARPS][LANES * PACKS * V];
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
#pragma unroll
        for (int i = 0; i < V; i++)
#pragma unroll
            for (int offset = LANES; offset < 32; offset *= 2)
                sum[p][i] += __shfl_xor_sync(ALL_LANES, sum[p][i], offset);
        if (threadIdx.x % 32 < LANES)
            store(&sums[threadIdx.x / 32][(p * LANES + threadIdx.x % LANES) * V], sum[p]);
    }
    __syncthreads();
    for (int column = threadIdx.x; column < width; column += BLOCK) {
        float total = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) total += sums[warp][column];
        to[column] = total;
    }
    __syncthreads();
}

// With g = dout weight and y = (stream - mean) rstd: dstream += rstd (g - mean(g) - y mean(g y)). The result is also
// written to dbranch unless it is null. The sums of dout y, dout, and dstream over the rows of each part are written to
// parts (R, gridDim.x, 3, width). Grid: (parts, R).
template <typename S, typename T, int V, int LANES, int PACKS>
__global__ void __launch_bounds__(BLOCK)
    layer_norm_backward(const T* dout, S* dstream, const S* stream, const float* weight, int64 weight_stride,
                        const float* means, const float* rstds, T* dbranch, float* parts, int rows, int width) {
    const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const int64 run = blockIdx.y;
    const int each = (rows + gridDim.x - 1) / gridDim.x, end = min(static_cast<int>(blockIdx.x + 1) * each, rows);
    float scale[PACKS][V] = {}, dweight[PACKS][V] = {}, dbias[PACKS][V] = {}, dbranch_bias[PACKS][V] = {};
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = (p * LANES + lane) * V;
        if (column < width) load(weight + run * weight_stride + column, scale[p]);
    }
    for (int first = blockIdx.x * each; first < end; first += BLOCK / LANES) {  // all threads reach sum_lanes
        const int row = first + group;
        const bool active = row < end;
        const int64 index = run * rows + row;
        const float mean = active ? means[index] : 0.0f, rstd = active ? rstds[index] : 0.0f;
        float y[PACKS][V], g[PACKS][V], sum_g = 0.0f, sum_gy = 0.0f;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            const int column = (p * LANES + lane) * V;
            const bool inside = active && column < width;
            if (inside) {
                load(stream + index * width + column, y[p]);
                load(dout + index * width + column, g[p]);
            }
#pragma unroll
            for (int i = 0; i < V; i++) {
                y[p][i] = inside ? (y[p][i] - mean) * rstd : 0.0f;
                g[p][i] = inside ? g[p][i] : 0.0f;
                dweight[p][i] += g[p][i] * y[p][i];
                dbias[p][i] += g[p][i];
                g[p][i] *= scale[p][i];
                sum_g += g[p][i];
                sum_gy += g[p][i] * y[p][i];
            }
        }
        const float mean_g = sum_lanes<LANES>(sum_g) / width, mean_gy = sum_lanes<LANES>(sum_gy) / width;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            const int column = (p * LANES + lane) * V;
            if (active && column < width) {
                float d[V];
                load(dstream + index * width + column, d);
#pragma unroll
                for (int i = 0; i < V; i++) {
                    d[i] += rstd * (g[p][i] - mean_g - y[p][i] * mean_gy);
                    dbranch_bias[p][i] += d[i];
                }
                store(dstream + index * width + column, d);
                if (dbranch) store(dbranch + index * width + column, d);
            }
        }
    }
    float* to = parts + (run * gridDim.x + blockIdx.x) * 3 * width;
    write_sums<V, LANES, PACKS>(dweight, to, width);
    write_sums<V, LANES, PACKS>(dbias, to + width, width);
    write_sums<V, LANES, PACKS>(dbranch_bias, to + 2 * width, width);
}
