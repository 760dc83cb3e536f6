/* What is needed of ONNX Runtime's C interface, which has no header in its Python package: a table of functions, whose
 * places never change, and what an operator of one's own has to tell. */

#ifndef ONNXRUNTIME_H
#define ONNXRUNTIME_H

#include <stddef.h>
#include <stdint.h>

enum { API_VERSION = 17, FLOAT32 = 1, INT8 = 3, REQUIRED = 0, OPTIONAL = 1, DEFAULT_MEMORY = 0, NOT_IMPLEMENTED = 9 };

typedef struct ort_status ort_status;   /* OrtStatus: NULL where all is well */
typedef struct ort_options ort_options; /* OrtSessionOptions */
typedef struct ort_domain ort_domain;   /* OrtCustomOpDomain */
typedef struct ort_info ort_info;       /* OrtKernelInfo: a node, its attributes and constants */
typedef struct ort_context ort_context; /* OrtKernelContext: one computation of it */
typedef struct ort_value ort_value;     /* OrtValue: a tensor */
typedef struct ort_shape ort_shape;     /* OrtTensorTypeAndShapeInfo */

typedef void (*ort_function)(void);
typedef struct { const ort_function *(*table)(uint32_t version); } ort_api; /* OrtApiBase */

/* Functions by their places in the table. */
#define CREATE_STATUS(table) ((ort_status * (*)(int, const char *)) (table)[0])
#define CREATE_DOMAIN(table) ((ort_status * (*)(const char *, ort_domain **)) (table)[26])
#define ADD_OPERATOR(table) ((ort_status * (*)(ort_domain *, const struct ort_operator *)) (table)[27])
#define ADD_DOMAIN(table) ((ort_status * (*)(ort_options *, ort_domain *)) (table)[28])
#define DATA_OF(table) ((ort_status * (*)(ort_value *, void **)) (table)[51])
#define RANK_OF(table) ((ort_status * (*)(const ort_shape *, size_t *)) (table)[61])
#define LENGTHS_OF(table) ((ort_status * (*)(const ort_shape *, int64_t *, size_t)) (table)[62])
#define SHAPE_OF(table) ((ort_status * (*)(const ort_value *, ort_shape **)) (table)[65])
#define FLOAT_ATTRIBUTE(table) ((ort_status * (*)(const ort_info *, const char *, float *)) (table)[85])
#define INTEGER_ATTRIBUTE(table) ((ort_status * (*)(const ort_info *, const char *, int64_t *)) (table)[86])
#define INPUT(table) ((ort_status * (*)(const ort_context *, size_t, const ort_value **)) (table)[90])
#define OUTPUT(table) ((ort_status * (*)(ort_context *, size_t, const int64_t *, size_t, ort_value **)) (table)[91])
#define RELEASE_STATUS(table) ((void (*)(ort_status *)) (table)[93])
#define RELEASE_SHAPE(table) ((void (*)(ort_shape *)) (table)[99])
#define CONSTANT(table) ((ort_status * (*)(const ort_info *, size_t, int *, const ort_value **)) (table)[249])
#define PARALLEL(table) \
    ((ort_status * (*)(const ort_context *, void (*)(void *, size_t), size_t, size_t, void *)) (table)[274])

/* OrtCustomOp. */
typedef struct ort_operator {
    uint32_t version;
    void *(*create_v1)(const struct ort_operator *, const ort_function *, const ort_info *);
    const char *(*name)(const struct ort_operator *);
    const char *(*provider)(const struct ort_operator *);
    int (*input_type)(const struct ort_operator *, size_t);
    size_t (*inputs)(const struct ort_operator *);
    int (*output_type)(const struct ort_operator *, size_t);
    size_t (*outputs)(const struct ort_operator *);
    void (*compute_v1)(void *, ort_context *);
    void (*destroy)(void *);
    int (*input_kind)(const struct ort_operator *, size_t);
    int (*output_kind)(const struct ort_operator *, size_t);
    int (*input_memory)(const struct ort_operator *, size_t);
    int (*least_inputs)(const struct ort_operator *);
    int (*inputs_alike)(const struct ort_operator *);
    int (*least_outputs)(const struct ort_operator *);
    int (*outputs_alike)(const struct ort_operator *);
    ort_status *(*create)(const struct ort_operator *, const ort_function *, const ort_info *, void **);
    ort_status *(*compute)(void *, ort_context *);
    ort_status *(*infer)(const struct ort_operator *, void *);
    int (*first_version)(const struct ort_operator *);
    int (*last_version)(const struct ort_operator *);
    void *later[4]; /* of API versions after this one */
} ort_operator;

#endif
