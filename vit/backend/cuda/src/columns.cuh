// Sums over rows, column by column. A block takes a tile of columns and a part of the rows: COLUMN_LANES<V> threads side
// by side hold V columns each (128 bytes of a row), and the groups of them take turns with the rows. The sums of the
// parts are added by `sum_parts`, in their order.

template <int V>
constexpr int COLUMN_LANES = V == 1 ? 32 : 8;
template <int V>
constexpr int TILE_COLUMNS = COLUMN_LANES<V> * V;

template <int V>
struct Tile {
    int group, groups, column, first, last;  // first: of this thread's rows; last: end of the part's

    __device__ __forceinline__ Tile(int tile, int part, int parts, int rows) {
        group = threadIdx.x / COLUMN_LANES<V>;
        groups = BLOCK / COLUMN_LANES<V>;
        column = tile * TILE_COLUMNS<V> + threadIdx.x % COLUMN_LANES<V> * V;
        const int each = (rows + parts - 1) / parts;
        first = part * each + group;
        last = min((part + 1) * each, rows);
    }
};

// The block's sum of column `threadIdx.x` of its tile, in the threads that have one, from V columns of each thread.
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

// Writes the sums of a part to `parts` (R, number of parts, columns).
template <int V>
__device__ __forceinline__ void write_part(const float (&sum)[V], float* parts, int columns) {
    const float total = fold_groups(sum);
    const int column = blockIdx.y * TILE_COLUMNS<V> + threadIdx.x;
    if (threadIdx.x < TILE_COLUMNS<V> && column < columns)
        parts[(static_cast<int64>(blockIdx.z) * gridDim.x + blockIdx.x) * columns + column] = total;
}
