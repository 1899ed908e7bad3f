// Clipping by the global norm and AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101). One launch processes all
// parameters of all runs (R, P).

#include "common.cuh"

constexpr int WARPS = BLOCK / 32;

// Returns the sum over the thread block, in every thread.
__device__ __forceinline__ double sum_block(double x) {
    __shared__ double sums[WARPS];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    double total = 0.0;
    for (int warp = 0; warp < WARPS; warp++) total += sums[warp];
    return total;
}

// Writes the sums of squares of x (R, size) to parts (R, gridDim.x). The first thread block also increments `step`
// unless it is null. Grid: (parts, R).
__global__ void __launch_bounds__(BLOCK) sum_of_squares(const float* x, int64 stride, double* parts, int size, int* step) {
    x += blockIdx.y * stride;
    double sum = 0.0;
    for (int64 at = (static_cast<int64>(blockIdx.x) * BLOCK + threadIdx.x) * 4; at < size; at += gridDim.x * BLOCK * 4) {
        float value[4];
        load(x + at, value);
        sum += value[0] * value[0] + value[1] * value[1] + (value[2] * value[2] + value[3] * value[3]);
    }
    sum = sum_block(sum);
    if (threadIdx.x == 0) parts[static_cast<int64>(blockIdx.y) * gridDim.x + blockIdx.x] = sum;
    if (step && threadIdx.x == 0 && blockIdx.x == 0 && blockIdx.y == 0) *step += 1;
}

// out[run] = square root of the sum of parts[run], where parts is (R, count). Grid: R.
__global__ void __launch_bounds__(BLOCK) norm_of_parts(const double* parts, int count, float* out) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += BLOCK) sum += parts[static_cast<int64>(blockIdx.x) * count + i];
    sum = sum_block(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sqrt(sum);
}

// With t = *step, g = gradient min(1, clip_norm / (norm + 1e-6)), m = b1 m + (1 - b1) g and v = b2 v + (1 - b2) g^2:
// w = w (1 - rate decay) - rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon).
// Weight decay applies only to the elements before `decayed`. gain1 = 1 - b1 and gain2 = 1 - b2. The learning rate is
// rates[run, (t - 1) mod rate_count]. Unless they are null, copy = w (in bf16), and
// average += max(average_gain, 9 / (10 + t)) (w - average). Grid: (chunks of a run, R).
__global__ void __launch_bounds__(BLOCK)
    adamw(float* weights, const float* gradient, float* first, float* second, bf16* copy, float* average,
          int64 weight_stride, int64 gradient_stride, int64 moment_stride, const float* rates, int rate_count,
          const float* decays, const int* step, const double* parts, int count, int decayed, int size, float beta1,
          float gain1, float log_beta1, float beta2, float gain2, float log_beta2, float epsilon, float clip_norm,
          float average_gain) {
    __shared__ float clip;
    const int run = blockIdx.y, t = *step;
    if (clip_norm > 0.0f) {
        double sum = 0.0;
        for (int i = threadIdx.x; i < count; i += BLOCK) sum += parts[static_cast<int64>(run) * count + i];
        sum = sum_block(sum);
        if (threadIdx.x == 0) clip = fminf(1.0f, clip_norm / (static_cast<float>(sqrt(sum)) + 1e-6f));
        __syncthreads();
    }
    const float scale = clip_norm > 0.0f ? clip : 1.0f;
    const float rate = rates[static_cast<int64>(run) * rate_count + (t - 1) % rate_count];
    const float moved = rate / -expm1f(t * log_beta1), spread = rsqrtf(-expm1f(t * log_beta2));
    const float shrink = 1.0f - rate * decays[run], gain = fmaxf(average_gain, 9.0f / (10.0f + t));
    weights += run * weight_stride, gradient += run * gradient_stride;
    first += run * moment_stride, second += run * moment_stride;
    for (int64 at = (static_cast<int64>(blockIdx.x) * BLOCK + threadIdx.x) * 4; at < size; at += gridDim.x * BLOCK * 4) {
        float w[4], g[4], m[4], v[4];
        load(weights + at, w);
        load(gradient + at, g);
        load(first + at, m);
        load(second + at, v);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            g[i] *= scale;
            m[i] = beta1 * m[i] + gain1 * g[i];
            v[i] = beta2 * v[i] + gain2 * g[i] * g[i];
            w[i] = w[i] * (at < decayed ? shrink : 1.0f) - moved * m[i] / (sqrtf(v[i]) * spread + epsilon);
        }
        store(weights + at, w);
        store(first + at, m);
        store(second + at, v);
        if (copy) store(copy + run * weight_stride + at, w);
        if (average) {
            float a[4];
            load(average + run * weight_stride + at, a);
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] += gain * (w[i] - a[i]);
            store(average + run * weight_stride + at, a);
        }
    }
}
