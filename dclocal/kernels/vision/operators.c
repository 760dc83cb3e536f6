/* How ONNX Runtime gets at operators of ours: it loads this library and calls `RegisterCustomOps`. */

#include "operators.h"

#include <limits.h>

static own *const all[] = {
    &attention,
    &bias_gelu,
#ifdef WITH_PRODUCTS
    &products,
#endif
};

enum { COUNT = sizeof all / sizeof *all };

/* The name of an operator that this library has, NULL behind the last, for who compares them. */
PUBLIC const char *operator_name(size_t place) { return place < COUNT ? all[place]->name : NULL; }

/* A kernel of a node: the operator, what it made of the node, and ONNX Runtime's functions. */
typedef struct { own *operator; void *made; const ort_function *table; } kernel;

static void keep(computation *in, ort_status *status) {
    if (status && in->failed)
        RELEASE_STATUS(in->table)(status);
    else if (status)
        in->failed = status;
}

/* Releases an error; whether there was one. */
static int drop(const ort_function *table, ort_status *status) {
    if (status)
        RELEASE_STATUS(table)(status);
    return status != NULL;
}

static ort_status *read(const ort_function *table, const ort_value *value, tensor *to) {
    ort_shape *shape;
    void *data;
    ort_status *failed = SHAPE_OF(table)(value, &shape);
    if (failed)
        return failed;
    failed = RANK_OF(table)(shape, &to->rank);
    if (!failed && to->rank > RANK)
        failed = CREATE_STATUS(table)(NOT_IMPLEMENTED, "a tensor has too many dimensions");
    if (!failed)
        failed = LENGTHS_OF(table)(shape, to->length, to->rank);
    RELEASE_SHAPE(table)(shape);
    if (!failed)
        failed = DATA_OF(table)((ort_value *)value, &data);
    to->data = failed ? NULL : data;
    return failed;
}

tensor input_of(computation *in, size_t place) {
    tensor found = {.rank = 0, .data = NULL};
    const ort_value *value = NULL;
    keep(in, INPUT(in->table)(in->context, place, &value));
    if (value)
        keep(in, read(in->table, value, &found));
    return found;
}

float *output_of(computation *in, const int64_t *length, size_t rank) {
    ort_value *value;
    void *data = NULL;
    ort_status *failed = OUTPUT(in->table)(in->context, 0, length, rank, &value);
    if (!failed)
        failed = DATA_OF(in->table)(value, &data);
    keep(in, failed);
    return data;
}

void in_parallel(computation *in, void (*part)(void *, size_t), size_t count, void *what) {
    if (count)
        keep(in, PARALLEL(in->table)(in->context, part, count, count, what));
}

tensor constant_of(const ort_function *table, const ort_info *info, size_t place) {
    tensor found = {.rank = 0, .data = NULL};
    const ort_value *value = NULL;
    int constant = 0;
    if (drop(table, CONSTANT(table)(info, place, &constant, &value)) || !constant || !value)
        return found;
    if (drop(table, read(table, value, &found)))
        found.data = NULL;
    return found;
}

float float_of(const ort_function *table, const ort_info *info, const char *name, float otherwise) {
    float found;
    return drop(table, FLOAT_ATTRIBUTE(table)(info, name, &found)) ? otherwise : found;
}

int64_t integer_of(const ort_function *table, const ort_info *info, const char *name, int64_t otherwise) {
    int64_t found;
    return drop(table, INTEGER_ATTRIBUTE(table)(info, name, &found)) ? otherwise : found;
}

static ort_status *create(const ort_operator *of, const ort_function *table, const ort_info *info, void **to) {
    const char *why = "there is no memory";
    kernel *made = malloc(sizeof *made);
    if (made) {
        *made = (kernel){(own *)of, NULL, table};
        made->made = made->operator->make(table, info, &why);
        if (made->made) {
            *to = made;
            return NULL;
        }
        free(made);
    }
    return CREATE_STATUS(table)(NOT_IMPLEMENTED, why);
}

static ort_status *compute(void *of, ort_context *context) {
    const kernel *kernel = of;
    computation in = {kernel->table, context, NULL};
    const char *wrong = kernel->operator->calculate(kernel->made, &in);
    return in.failed ? in.failed : wrong ? CREATE_STATUS(kernel->table)(NOT_IMPLEMENTED, wrong) : NULL;
}

static void destroy(void *of) {
    const kernel *kernel = of;
    kernel->operator->release(kernel->made);
    free(of);
}

static const char *name_of(const ort_operator *of) { return ((const own *)of)->name; }
static const char *processor(const ort_operator *of) { return (void)of, NULL; }
static size_t inputs_of(const ort_operator *of) { return ((const own *)of)->inputs; }
static int type_of(const ort_operator *of, size_t place) { return ((const own *)of)->types[place]; }
static int kind_of(const ort_operator *of, size_t place) { return ((const own *)of)->kinds[place]; }
static size_t one(const ort_operator *of) { return (void)of, 1; }
static int float32(const ort_operator *of, size_t place) { return (void)of, (void)place, FLOAT32; }
static int required(const ort_operator *of, size_t place) { return (void)of, (void)place, REQUIRED; }
static int memory(const ort_operator *of, size_t place) { return (void)of, (void)place, DEFAULT_MEMORY; }
static int least(const ort_operator *of) { return (void)of, 1; }
static int last(const ort_operator *of) { return (void)of, INT_MAX; }

PUBLIC ort_status *RegisterCustomOps(ort_options *options, const ort_api *api) {
    static ort_domain *domain; /* ONNX Runtime's own; it has to last as long as any session */
    const ort_function *table = api->table(API_VERSION);
    ort_status *failed = NULL;
    if (!domain) {
        ort_domain *made;
        failed = CREATE_DOMAIN(table)("com.microsoft", &made);
        for (size_t i = 0; i < COUNT && !failed; i++) {
            all[i]->interface = (ort_operator){
                API_VERSION, NULL, name_of, processor, type_of, inputs_of, float32, one, NULL, destroy, kind_of,
                required, memory, least, least, least, least, create, compute, NULL, least, last, {NULL},
            };
            failed = ADD_OPERATOR(table)(made, &all[i]->interface);
        }
        if (!failed)
            domain = made;
    }
    return failed ? failed : ADD_DOMAIN(table)(options, domain);
}
