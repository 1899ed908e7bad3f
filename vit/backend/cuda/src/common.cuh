// Helpers of all kernels: bf16 conversion, vector loads and stores, and reductions over lanes.
// The sources include no CUDA headers, so that NVRTC alone can compile them.
//
// Notation in the comments: R runs, B images per batch, N or T tokens, D width, H heads, K head width; h, w, C are the
// height, width and channels of an image, p is the patch size. A pack is V adjacent elements that one thread processes.
// Grids are given as (x, y, z). "Packs" in a grid means one thread, not one thread block, per pack.

using uint32 = unsigned int;
using uint64 = unsigned long long;
using int64 = long long;

enum : uint32 { ALL_LANES = 0xffffffffu };
enum : int { BLOCK = 256 };  // default number of threads per block

struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(static_cast<uint32>(x.bits) << 16); }

// Rounds two floats to bf16 (nearest, ties to even) and packs them into a word, with `low` in the lower half.
__device__ __forceinline__ uint32 pack_bf16(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    const auto round = [](float x) {
        const uint32 bits = __float_as_uint(x);
        return x == x ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fffu;
    };
    return round(low) | round(high) << 16;
#endif
}

__device__ __forceinline__ float low_half(uint32 word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float high_half(uint32 word) { return __uint_as_float(word & 0xffff0000u); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return bf16{static_cast<unsigned short>(pack_bf16(x, 0.0f) & 0xffffu)};
}

// Loads V adjacent elements. The address must be aligned to V elements or to 16 bytes, whichever is less.
template <int V>
__device__ __forceinline__ void load(const float* from, float (&x)[V]) {
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const float4 four = *reinterpret_cast<const float4*>(from + i);
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = from[i];
    }
}

template <int V>
__device__ __forceinline__ void load(const bf16* from, float (&x)[V]) {
    if constexpr (V == 8) {
        const uint4 words = *reinterpret_cast<const uint4*>(from);
        x[0] = low_half(words.x), x[1] = high_half(words.x), x[2] = low_half(words.y), x[3] = high_half(words.y);
        x[4] = low_half(words.z), x[5] = high_half(words.z), x[6] = low_half(words.w), x[7] = high_half(words.w);
    } else if constexpr (V == 4) {
        const uint2 words = *reinterpret_cast<const uint2*>(from);
        x[0] = low_half(words.x), x[1] = high_half(words.x), x[2] = low_half(words.y), x[3] = high_half(words.y);
    } else if constexpr (V == 2) {
        const uint32 word = *reinterpret_cast<const uint32*>(from);
        x[0] = low_half(word), x[1] = high_half(word);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = to_float(from[i]);
    }
}

template <int V>
__device__ __forceinline__ void store(float* to, const float (&x)[V]) {
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4)
            *reinterpret_cast<float4*>(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = x[i];
    }
}

template <int V>
__device__ __forceinline__ void store(bf16* to, const float (&x)[V]) {
    if constexpr (V == 8) {
        *reinterpret_cast<uint4*>(to) =
            make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    } else if constexpr (V == 4) {
        *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
    } else if constexpr (V == 2) {
        *reinterpret_cast<uint32*>(to) = pack_bf16(x[0], x[1]);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = from_float<bf16>(x[i]);
    }
}

// Returns the sum over a group of LANES adjacent threads, in each of them. All threads of the warp must call it.
template <int LANES>
__device__ __forceinline__ float sum_lanes(float x) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

template <int LANES>
__device__ __forceinline__ float max_lanes(float x) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// Returns 2^x with an error of at most 2 units in the last place.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }
