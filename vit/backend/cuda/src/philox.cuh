// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

enum Purpose : uint32 { DROP_ELEMENTS, DROP_PATHS, AUGMENT, MIX };

struct Random {
    uint32 words[4];
};

__device__ __forceinline__ Random philox(uint64 key, uint32 c0, uint32 c1, uint32 c2, uint32 c3) {
    uint32 k0 = static_cast<uint32>(key), k1 = static_cast<uint32>(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const uint32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Converts a random word to a uniform random number in [0, 1), a multiple of 2^-24.
__device__ __forceinline__ float uniform(uint32 word) { return (word >> 8) * (1.0f / 16777216.0f); }
