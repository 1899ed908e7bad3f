// GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415) in its exact form x Phi(x), where Phi is the cumulative
// distribution function of the standard normal distribution and phi its density.

#include "common.cuh"
#include "columns.cuh"

struct Normal {
    float cdf, density;
};

// Returns Phi(u) and phi(u). Phi is computed from erf(z) = 1 - (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1 + p z)
// for z >= 0, with an absolute error of at most 1.5e-7 (Abramowitz and Stegun 7.1.26). phi uses the same exponential.
__device__ __forceinline__ Normal normal(float u) {
    const float gauss = __expf(-0.5f * u * u);
    const float t = __fdividef(1.0f, fmaf(0.3275911f * 0.70710678f, fabsf(u), 1.0f));
    float series = fmaf(1.061405429f, t, -1.453152027f);
    series = fmaf(series, t, 1.421413741f);
    series = fmaf(series, t, -0.284496736f);
    series = fmaf(series, t, 0.254829592f);
    const float tail = 0.5f * series * t * gauss;
    return {u < 0.0f ? tail : 1.0f - tail, 0.39894228f * gauss};
}

// out = GELU(x + bias), where x is (R, rows, columns) and bias is (R, columns). With DERIVATIVE, x is overwritten with
// GELU'(u) = Phi(u) + u phi(u) at u = x + bias. Grid: (packs of a run, R).
template <typename T, int V, bool DERIVATIVE>
__global__ void __launch_bounds__(BLOCK)
    bias_gelu(T* x, const float* bias, int64 bias_stride, T* out, uint32 rows, int columns) {
    const uint32 packs = columns / V, pack = blockIdx.x * BLOCK + threadIdx.x, row = pack / packs;
    if (row >= rows) return;
    const int column = (pack - row * packs) * V;
    const int64 at = (blockIdx.y * static_cast<int64>(rows) + row) * columns + column;
    float u[V], added[V], y[V], derivative[V];
    load(x + at, u);
    load(bias + blockIdx.y * bias_stride + column, added);
#pragma unroll
    for (int i = 0; i < V; i++) {
        u[i] += added[i];
        const Normal n = normal(u[i]);
        y[i] = u[i] * n.cdf;
        derivative[i] = fmaf(u[i], n.density, n.cdf);
    }
    store(out + at, y);
    if constexpr (DERIVATIVE) store(x + at, derivative);
}

// dy *= derivative, both (R, rows, columns). The sums of the result over the rows of each part are written to `parts`.
// Grid: (parts, tiles of columns, R).
template <typename T, int V>
__global__ void __launch_bounds__(BLOCK)
    bias_gelu_backward(T* dy, const T* derivative, float* parts, int rows, int columns) {
    const Tile<V> tile(blockIdx.y, blockIdx.x, gridDim.x, rows);
    const int64 run = static_cast<int64>(blockIdx.z) * rows * columns;
    float sum[V] = {};
    if (tile.column < columns)
        for (int row = tile.first; row < tile.last; row += tile.groups) {
            const int64 at = run + static_cast<int64>(row) * columns + tile.column;
            float value[V], slope[V];
            load(dy + at, value);
            load(derivative + at, slope);
#pragma unroll
            for (int i = 0; i < V; i++) {
                value[i] *= slope[i];
                sum[i] += value[i];
            }
            store(dy + at, value);
        }
    write_part(sum, parts, columns);
}
