// Column sums of matrices. A thread block processes one tile of columns and one part of the rows. A group of
// COLUMN_LANES<V> adjacent threads covers the tile (128 bytes of a row), with V columns per thread. The groups process
// the rows of the part in turn. `sum_parts` adds the sums of the parts in a fixed order.

template <int V>
constexpr int COLUMN_LANES = V == 1 ? 32 : 8;
template <int V>
constexpr int TILE_COLUMNS = COLUMN_LANES<V> * V;

template <int V>
struct Tile {
    int group, groups, column, first, last;  // first: first row of this thread; last: end of the part (exclusive)

    __device__ __forceinline__ Tile(int tile, int part, int parts, int rows) {
        group = threadIdx.x / COLUMN_LANES<V>;
        groups = BLOCK / COLUMN_LANES<V>;
        column = tile * TILE_COLUMNS<V> + threadIdx.x % COLUMN_LANES<V> * V;
        const int each = (rows + parts - 1) / parts;
        first = part * each + group;
        last = min((part + 1) * each, rows);
    }
};

// Returns the sum of column `threadIdx.x` of the tile over all groups of the block, given the V column sums of each
// thread. Threads without a column return 0.
template <int V>
__device__ __forceinline__ float fold_groups(const float (&sum)[V]) {
    __shared__ __align__(16) float sums[BLOCK * V];
    store(sums + threadIdx.x * V, sum);
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x < TILE_COLUMNS<V>)
        for (int group = 0; group < BLOCK / COLUMN_LANES<V>; group++)
            total += sums[group * TILE_COLUMNS<V> + threadIdx.x];
    return total;
}

// Writes the column sums of the block's part of the rows to `parts` (R, number of parts, columns).
template <int V>
__device__ __forceinline__ void write_part(const float (&sum)[V], float* parts, int columns) {
    const float total = fold_groups(sum);
    const int column = blockIdx.y * TILE_COLUMNS<V> + threadIdx.x;
    if (threadIdx.x < TILE_COLUMNS<V> && column < columns)
        parts[(static_cast<int64>(blockIdx.z) * gridDim.x + blockIdx.x) * columns + column] = total;
}
