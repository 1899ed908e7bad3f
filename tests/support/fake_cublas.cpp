// The part of cuBLAS that vit.backend.cublas calls, on the CPU, with the signatures of cublas_api.h: column-major
// products as the documentation defines them, and a status for what the documentation forbids.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

enum { OK = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { DEFAULT_MATH = 0, NO_REDUCED_PRECISION_REDUCTION = 16 };
enum { REAL_32 = 0, BFLOAT_16 = 14, COMPUTE_32F = 68, COMPUTE_TF32 = 77 };

struct Handle {
    void *stream, *workspace;
    size_t bytes;
    int math;
};

int calls = 0, batched_calls = 0;

float read(const void *data, int type, long long i) {
    if (type == REAL_32) return static_cast<const float *>(data)[i];
    uint32_t bits = uint32_t(static_cast<const uint16_t *>(data)[i]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

void write(void *data, int type, long long i, float value) {
    if (type == REAL_32) {
        static_cast<float *>(data)[i] = value;
        return;
    }
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    static_cast<uint16_t *>(data)[i] = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
}

int gemm(Handle *handle, int ta, int tb, int m, int n, int k, const float *alpha, const void *a, int atype, int lda,
         long long sa, const void *b, int btype, int ldb, long long sb, const float *beta, void *c, int ctype, int ldc,
         long long sc, int batch, int compute, int algorithm) {
    if (!handle || !handle->stream || !handle->workspace || handle->bytes < 4u << 20) return NOT_INITIALIZED;
    // a library may sum the parts of a long bf16 sum in bf16 unless told not to: nobody here wants that
    if (handle->math != (DEFAULT_MATH | NO_REDUCED_PRECISION_REDUCTION)) return NOT_SUPPORTED;
    if (ta < 0 || ta > 1 || tb < 0 || tb > 1 || m < 0 || n < 0 || k < 0 || batch < 0) return INVALID_VALUE;
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m || lda < 1 || ldb < 1 || ldc < 1) return INVALID_VALUE;
    bool wide = atype == REAL_32 && ctype == REAL_32, narrow = atype == BFLOAT_16 && (ctype == atype || ctype == REAL_32);
    if (atype != btype || !(wide || narrow) || algorithm != -1) return NOT_SUPPORTED;
    if (compute != COMPUTE_32F && !(compute == COMPUTE_TF32 && wide)) return NOT_SUPPORTED;
    for (long long i = 0; i < batch; i++)
        for (long long column = 0; column < n; column++)
            for (long long row = 0; row < m; row++) {
                double sum = 0;
                for (long long j = 0; j < k; j++)
                    sum += double(read(a, atype, i * sa + (ta ? row * lda + j : j * lda + row))) *
                           read(b, btype, i * sb + (tb ? j * ldb + column : column * ldb + j));
                long long at = i * sc + column * ldc + row;
                float before = *beta == 0 ? 0 : *beta * read(c, ctype, at);
                write(c, ctype, at, float(*alpha * sum) + before);
            }
    return OK;
}

}  // namespace

extern "C" {

int cublasCreate_v2(Handle **handle) {
    *handle = new Handle{nullptr, nullptr, 0, DEFAULT_MATH};
    return OK;
}

int cublasDestroy_v2(Handle *handle) {
    delete handle;
    return OK;
}

int cublasSetStream_v2(Handle *handle, void *stream) {
    *handle = Handle{stream, nullptr, 0, handle->math};  // as the documentation says: back to the default workspace
    return OK;
}

int cublasSetWorkspace_v2(Handle *handle, void *workspace, size_t bytes) {
    handle->workspace = workspace;
    handle->bytes = bytes;
    return OK;
}

int cublasSetMathMode(Handle *handle, int mode) {
    handle->math = mode;
    return OK;
}

const char *cublasGetStatusString(int status) {
    return status == INVALID_VALUE ? "an unsupported value or parameter was passed to the function" : "another status";
}

int cublasGemmEx(Handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int atype,
                 int lda, const void *b, int btype, int ldb, const void *beta, void *c, int ctype, int ldc, int compute,
                 int algorithm) {
    calls++;
    return gemm(handle, ta, tb, m, n, k, static_cast<const float *>(alpha), a, atype, lda, 0, b, btype, ldb, 0,
                static_cast<const float *>(beta), c, ctype, ldc, 0, 1, compute, algorithm);
}

int cublasGemmStridedBatchedEx(Handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                               int atype, int lda, long long sa, const void *b, int btype, int ldb, long long sb,
                               const void *beta, void *c, int ctype, int ldc, long long sc, int batch, int compute,
                               int algorithm) {
    batched_calls++;
    return gemm(handle, ta, tb, m, n, k, static_cast<const float *>(alpha), a, atype, lda, sa, b, btype, ldb, sb,
                static_cast<const float *>(beta), c, ctype, ldc, sc, batch, compute, algorithm);
}

int fake_calls() { return calls; }
int fake_batched_calls() { return batched_calls; }

}  // extern "C"
