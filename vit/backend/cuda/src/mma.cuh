// Products of small matrices on tensor cores, computed by the 32 threads of a warp. Lanes are numbered 4 g + t, where
// 0 <= g < 8 and 0 <= t < 4. A 32-bit register holds two adjacent bf16 elements.

// d (16 x 8, float32) += a (16 x 16, bf16) b (16 x 8, bf16). In lane 4 g + t, the registers hold these elements:
// a[0], a[1], a[2], a[3]: a[g][2t], a[g+8][2t], a[g][2t+8], a[g+8][2t+8], each with the next element of the row;
// b0, b1: b[2t][g], b[2t+8][g], each with the next element of the column;
// d[0], d[1], d[2], d[3]: d[g][2t], d[g][2t+1], d[g+8][2t], d[g+8][2t+1].
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
#ifdef __CUDA_ARCH__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const uint32 mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const auto words = exchange_words(mine);  // words[lane][i]
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 16; k++) {
            const uint32 left = words[4 * g + k % 8 / 2][i / 2 + 2 * (k / 8)];
            const uint32 right = words[4 * (2 * t + i % 2) + k % 8 / 2][4 + k / 8];
            d[i] += k % 2 ? high_half(left) * high_half(right) : low_half(left) * low_half(right);
        }
#endif
}

// Loads four 8 x 8 matrices of bf16 from shared memory. In lane 8 i + j, `row` points to the first element of row j of
// matrix i (16-byte aligned). In lane 4 g + t, words[i] receives elements [g][2t] and [g][2t+1] of matrix i.
__device__ __forceinline__ void load_matrices(uint32 (&words)[4], const bf16* row) {
#ifdef __CUDA_ARCH__
    const uint32 address = static_cast<uint32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
#else
    const auto rows = exchange_pointers(row);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        words[i] = rows[8 * i + g][2 * t].bits | static_cast<uint32>(rows[8 * i + g][2 * t + 1].bits) << 16;
#endif
}

// As load_matrices, but transposed: words[i] receives elements [2t][g] and [2t+1][g] of matrix i.
__device__ __forceinline__ void load_matrices_transposed(uint32 (&words)[4], const bf16* row) {
#ifdef __CUDA_ARCH__
    const uint32 address = static_cast<uint32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
#else
    const auto rows = exchange_pointers(row);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        words[i] = rows[8 * i + 2 * t][g].bits | static_cast<uint32>(rows[8 * i + 2 * t + 1][g].bits) << 16;
#endif
}
